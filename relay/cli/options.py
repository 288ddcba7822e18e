"""Options that several verbs share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click

from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.config.models import Config
    from relay.config.source import Loaded
    from relay.resolver import Resolver

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


def dns_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--dns HOST:PORT` as `nameserver` and `--zone FILE` as `zone`, for `make_resolver`."""
    server = click.option(
        "--dns", "nameserver", metavar="HOST:PORT", help="The name server to ask. Default: the system's."
    )
    zone = click.option(
        "--zone", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Ask this zone file instead."
    )
    return server(zone(command))


def make_resolver(nameserver: str | None, zone: Path | None) -> Resolver:
    """Who answers DNS questions; wrong use exits 2. Close it in the loop that used it."""
    from relay.resolver import Resolver
    from relay.zone import ZoneFile

    if nameserver and zone:
        raise click.UsageError("--dns and --zone exclude each other")
    try:
        return ZoneFile(zone) if zone else Resolver([nameserver] if nameserver else [])
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from None


def read_message(file: IO[bytes]) -> bytes:
    """A message from a file; line ends that are LF become CRLF, and standard error says so."""
    content = file.read()
    if re.search(rb"(?<!\r)\n", content):
        content = re.sub(rb"\r?\n", b"\r\n", content)
        click.echo("relay: line ends were LF, they are CRLF now", err=True)
    return content
