"""`relay readyz`: ask a running relay whether it takes mail, for health checks.

A health check runs every few seconds: it reads the two keys it needs straight from the TOML and
imports neither pydantic nor aiohttp.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import click

from relay.cli.options import config_option
from relay.escape import escape

HOST, PORT = "127.0.0.1", 8025  # as in `config/models.py`
PAUSE = 0.25  # seconds between two questions


def _seconds(ctx: click.Context, param: click.Parameter, value: str) -> float:
    try:
        seconds = float(value.removesuffix("s"))
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 86400:
        raise click.BadParameter('write seconds, such as "30s"')
    return seconds


@click.command()
@click.option("--wait", is_flag=True, help="Ask until it is ready or the time is over.")
@click.option("--timeout", callback=_seconds, default="30s", show_default=True, help="How long to wait at most.")
@config_option
def readyz(path: Path | None, wait: bool, timeout: float) -> None:
    """Ask the relay of this configuration whether it is ready.

    Exit code 0: ready. 1: not ready, or nobody answers. 2: the configuration cannot be read.
    """
    try:
        host, port = web_address(path, os.environ)
    except ValueError as error:
        click.echo(f"relay: {escape(str(error))}", err=True)
        sys.exit(2)
    until = time.monotonic() + timeout
    while True:
        ready, text = ask(host, port, max(0.01, until - time.monotonic()))
        if ready or not wait or time.monotonic() + PAUSE >= until:
            break
        time.sleep(PAUSE)
    click.echo(text)
    sys.exit(0 if ready else 1)


def web_address(path: Path | None, environment: Mapping[str, str]) -> tuple[str, int]:
    """`web.host` and `web.port` of the file, the environment first. Raises ValueError with what is wrong."""
    if path is None and Path("config.toml").exists():
        path = Path("config.toml")
    table: object = {}
    if path is not None:
        try:
            table = tomllib.loads(path.read_text("utf-8-sig")).get("web", {})
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if not isinstance(table, dict):
        raise ValueError(f"{path}: web: must be a table")
    host = _from(environment, "RELAY_WEB__HOST") or table.get("host", HOST)
    port = _from(environment, "RELAY_WEB__PORT") or table.get("port", PORT)
    if not isinstance(host, str) or not str(port).isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("web.host must be an address and web.port a number from 1 to 65535 to be asked")
    # A wildcard is where the relay listens, not where it can be reached.
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host), int(port)  # noqa: S104


def ask(host: str, port: int, timeout: float) -> tuple[bool, str]:
    """Whether it is ready, and a line for people. One question; `timeout` in seconds."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        content = response.read(65536)
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return False, f"not ready: {host} port {port}: {escape(cause)}"
    finally:
        connection.close()
    if response.status == 200:
        return True, "ready"
    try:
        missing = [escape(str(name)) for name, ready in json.loads(content).items() if not ready and name != "ready"]
    except (ValueError, AttributeError, RecursionError):
        return False, f"not ready: {host} port {port} answers {response.status}"
    return False, f"not ready: {', '.join(missing)}"


def _from(environment: Mapping[str, str], name: str) -> str | None:
    """The variable, or what is in the file that `NAME_FILE` names."""
    if file := environment.get(f"{name}_FILE"):
        try:
            return Path(file).read_text().strip()
        except OSError as error:
            raise ValueError(f"{name}_FILE: {error.strerror}") from error
    return environment.get(name)
