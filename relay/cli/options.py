"""Options that several verbs share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.config.models import Config

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
    from relay.config.source import load

    try:
        return load(path, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"relay: {problem}", err=True)
        sys.exit(2)
