"""`relay config`: check it, print it, or print its JSON schema."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relay.cli.options import config_option, json_option, load_or_exit
from relay.errors import ConfigError, Problem

if TYPE_CHECKING:
    from relay.config.models import Config


@click.group()
def config() -> None:
    """Check or print the configuration, or its JSON schema."""


@config.command()
@config_option
@json_option
def check(path: Path | None, as_json: bool) -> None:
    """Say whether the relay would start with it: exit 0, or 2 with every problem, file, line and key."""
    from relay.config.source import read

    try:
        loaded = read(path, os.environ)
    except ConfigError as error:
        if as_json:
            click.echo(json.dumps({"ok": False, "errors": [_as_dict(one) for one in error.problems], "warnings": []}))
        else:
            for problem in error.problems:
                click.echo(f"relay: {problem}", err=True)
        sys.exit(2)
    if as_json:
        click.echo(json.dumps({"ok": True, "errors": [], "warnings": [_as_dict(one) for one in loaded.warnings]}))
        return
    for problem in loaded.warnings:
        click.echo(f"relay: warning: {problem}", err=True)
    click.echo(f"{loaded.source}: OK")
    for line in _summary(loaded.config):
        click.echo(f"  {line}")


@config.command("print")
@config_option
@json_option
@click.option("--shipped", is_flag=True, help="Print the configuration as shipped: a config.toml to start from.")
def print_(path: Path | None, as_json: bool, shipped: bool) -> None:
    """Print the configuration in force, from file, environment and defaults. Secrets are left out."""
    from relay.config.shipped import render, text

    if shipped:
        click.echo(text(), nl=False)
        return
    in_force = load_or_exit(path)
    if as_json:
        click.echo(in_force.model_dump_json(indent=2))
    else:
        click.echo(render(in_force), nl=False)


@config.command()
def schema() -> None:
    """Print the JSON schema of config.toml, for editors."""
    from relay.config.models import Config

    click.echo(json.dumps(Config.model_json_schema(), indent=2))


def _as_dict(problem: Problem) -> dict[str, str]:
    return {"source": problem.source, "key": problem.key, "text": problem.text}


def _summary(config: Config) -> list[str]:
    """Where mail comes in, what is signed, where mail goes: a line each."""
    lines = []
    for name, listener in config.listener.items():
        tls = "" if listener.tls == "none" else f", {listener.tls}"
        lines.append(f"listener {name}: {listener.role} on {_place(listener.host, listener.port)}{tls}")
    for domain in config.domain.values():
        selectors = ", ".join(f"{key.selector} ({key.algorithm})" for key in domain.key.values())
        lines.append(f"signs {domain.name}: {selectors}")
    for name, hop in config.hop.items():
        hosts = ", ".join(_place(host, hop.port) for host in hop.host)
        lines.append(f"hop {name}: {f'{hosts}, tls {hop.tls}' if hosts else 'the inbox'}")
    return lines


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
