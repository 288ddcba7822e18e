"""`relay keys`: make DKIM keys, list them, print their DNS records."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from relay.cli.options import config_option, json_option, load_or_exit

if TYPE_CHECKING:
    from relay.config.models import Config, Key
    from relay.edit.key import SigningKey

ALGORITHMS = ("rsa-sha256", "ed25519-sha256")


@click.group()
def keys() -> None:
    """Make DKIM keys, list them, print their DNS records."""


@keys.command()
@click.argument("domain")
@click.option("--selector", help="Default: the algorithm's letter and today's date, as in r20261122.")
@click.option("--algorithm", type=click.Choice(ALGORITHMS), default=ALGORITHMS[0], show_default=True)
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the key file. Default: keys in the folder that RELAY_DATA names, else in ./data.",
)
@json_option
def new(domain: str, selector: str | None, algorithm: str, folder: Path | None, as_json: bool) -> None:
    """Make a key for DOMAIN; print where it is, its DNS record, and the configuration for it.

    The file gets mode 0600. An existing file is never overwritten.
    """
    from relay.clock import SystemClock
    from relay.config.models import Algorithm
    from relay.edit.key import key_name
    from relay.errors import ConfigError, MalformedAddress
    from relay.publish.keys import default_selector, new_key, zone_record

    kind = Algorithm(algorithm)
    selector = selector or default_selector(kind, SystemClock().time())
    try:
        domain, selector = key_name(domain, selector)
    except MalformedAddress as error:  # before either becomes part of a path
        raise click.UsageError(str(error)) from None
    folder = folder or Path(os.environ.get("RELAY_DATA") or "data") / "keys"
    file = (folder / f"{domain}.{selector}.pem").absolute()
    try:
        key = new_key(domain, selector, kind, file)
    except ConfigError as error:
        click.echo(f"relay: {error}", err=True)
        sys.exit(2)
    if as_json:
        click.echo(json.dumps({**_record(key), "algorithm": algorithm, "file": str(file)}, indent=2))
        return
    table, name = key.domain.replace(".", "-")[:40], selector.replace(".", "-")[:40]
    click.echo(f"The private key is in {file}\n")
    click.echo(f"In the zone of {key.domain}:\n\n{zone_record(key)}\n")
    click.echo("In config.toml, once the record is there:\n")
    click.echo(f"[domain.{table}]\nname = {json.dumps(key.domain)}\n")
    click.echo(f"[domain.{table}.key.{name}]\nselector = {json.dumps(selector)}")
    click.echo(f'file = {json.dumps(str(file))}\nalgorithm = "{algorithm}"')


@keys.command("list")
@json_option
@config_option
def list_(path: Path | None, as_json: bool) -> None:
    """List the configured keys. Exit 1 if one of them cannot be used."""
    rows = list(_configured(load_or_exit(path)))
    if as_json:
        names = ("domain", "selector", "algorithm", "file", "state")
        values = ((row.domain, row.key.selector, row.key.algorithm, str(row.key.file), row.state) for row in rows)
        click.echo(json.dumps([dict(zip(names, value, strict=True)) for value in values], indent=2))
    else:
        table = [("DOMAIN", "SELECTOR", "ALGORITHM", "FILE", "STATE")]
        table += [(row.domain, row.key.selector, row.key.algorithm, str(row.key.file), row.state) for row in rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    sys.exit(any(row.loaded is None for row in rows))


@keys.command()
@click.argument("domain", required=False)
@json_option
@config_option
def dns(path: Path | None, domain: str | None, as_json: bool) -> None:
    """Print the DNS records of the configured keys, or of those for DOMAIN, as lines of a zone file.

    Exit 1 if there is none, or one of the keys cannot be used.
    """
    from relay.address import domain_key
    from relay.publish.keys import zone_record

    rows = [
        row for row in _configured(load_or_exit(path)) if domain is None or domain_key(row.domain) == domain_key(domain)
    ]
    loaded = [row.loaded for row in rows if row.loaded is not None]
    if as_json:
        click.echo(json.dumps([_record(key) for key in loaded], indent=2))
    else:
        for key in loaded:
            click.echo(zone_record(key))
    for row in rows:
        if row.loaded is None:
            click.echo(f"relay: {row.domain}, selector {row.key.selector}: {row.state}", err=True)
    if not rows:
        click.echo(f"relay: no key is configured{f' for {domain}' if domain else ''}", err=True)
    sys.exit(not rows or len(loaded) < len(rows))


class _Configured(NamedTuple):
    """A key of the configuration; `loaded` is None when it cannot be used, and `state` says why."""

    domain: str
    key: Key
    loaded: SigningKey | None
    state: str


def _configured(config: Config) -> Iterator[_Configured]:
    from relay.edit.key import SigningKey
    from relay.errors import ConfigError

    for domain in config.domain.values():
        for key in domain.key.values():
            if key.generate and not key.file.exists():
                yield _Configured(domain.name, key, None, "not made yet: `relay serve` makes it at start")
                continue
            try:
                loaded = SigningKey.load(domain.name, key.selector, key.algorithm, key.file)
            except ConfigError as error:
                yield _Configured(domain.name, key, None, str(error))
            else:
                yield _Configured(domain.name, key, loaded, "ready")


def _record(key: SigningKey) -> dict[str, str]:
    from relay.publish.keys import dns_name, dns_record

    return {"domain": key.domain, "selector": key.selector, "name": dns_name(key), "value": dns_record(key)}
