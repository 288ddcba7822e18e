"""Options that several verbs share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.config.models import Config
    from relay.config.source import Loaded

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

config_option: Decorator = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    envvar="RELAY_CONFIG",
    help="Configuration file. Default: ./config.toml if there is one, else the embedded defaults.",
)
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def load_or_exit(path: Path | None) -> Config:
    """The configuration; if it cannot be used, all its problems on standard error and exit 2."""
    return read_or_exit(path).config


def read_or_exit(path: Path | None) -> Loaded:
    """As `load_or_exit`, with the warnings and the source's name."""
    from relay.config.source import read

    try:
        return read(path, os.environ)
    except ConfigError as error:
        exit_with(error)


def exit_with(error: ConfigError) -> NoReturn:
    """All its problems on standard error, and exit 2."""
    for problem in error.problems:
        click.echo(f"relay: {problem}", err=True)
    sys.exit(2)
