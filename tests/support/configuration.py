"""A configuration that loads, to be spoilt in one place at a time."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from relay.config.files import read_file
from relay.config.finding import World
from relay.config.networks import Machine
from relay.config.source import Loaded, read
from relay.errors import ConfigError, Problem

GOOD = """\
hostname = "relay.example.org"

[listener.submission]
role = "submission"
port = 2525
allow = ["10.0.0.0/8"]
senders = ["@example.org"]

[listener.gateway]
role = "gateway"
host = "0.0.0.0"
port = 2526
domains = ["example.org"]

[listener.capture]
role = "capture"
port = 1025

[route.all]
hop = "mailbox"

[hop.mailbox]
host = ["mail.example.net"]
"""
Overrides = dict[str, object]  # values by dotted key
OWN_ADDRESS = IPv4Address("198.51.100.7")

# Keys of GOOD, and tables to add to it.
SUBMISSION, GATEWAY, CAPTURE = "listener.submission", "listener.gateway", "listener.capture"
HOP = "hop.mailbox"
KEY = "domain.d.key.k"
DOMAIN: Overrides = {"domain.d.name": "example.org", f"{KEY}.selector": "s", f"{KEY}.file": "d.pem"}
LOGIN: Overrides = {f"{HOP}.username": "relay", f"{HOP}.password": "secret", f"{HOP}.tls": "required"}
OAUTH2: Overrides = {
    f"{HOP}.username": "relay@example.org",
    f"{HOP}.tls": "required",
    f"{HOP}.oauth2.token_url": "https://login.example.net/token",
    f"{HOP}.oauth2.client_id": "relay",
    f"{HOP}.oauth2.client_secret": "secret",
}
RATE: Overrides = {"rate.r.per": "ip", "rate.r.messages": 10}


def is_own(address: IPv4Address | IPv6Address) -> bool:
    return address == OWN_ADDRESS


WORLD = World(
    read=read_file,
    machine=Machine(frozenset({"thishost"}), is_own),
    user=os.geteuid(),
    now=datetime(2026, 1, 1, tzinfo=UTC),
)


def read_good(folder: Path, overrides: Overrides | None = None, world: World = WORLD) -> Loaded:
    """`GOOD`, written into `folder` and read with `overrides` by dotted key. Raises ConfigError."""
    file = folder / "config.toml"
    file.write_text(GOOD)
    return read(file, {}, overrides, world)


def problems(folder: Path, overrides: Overrides, **world: object) -> tuple[list[Problem], list[Problem]]:
    """Errors and warnings of `GOOD` with `overrides`; `world`: fields of `WORLD` that differ."""
    try:
        return [], list(read_good(folder, overrides, replace(WORLD, **world)).warnings)  # type: ignore[arg-type]
    except ConfigError as error:
        return list(error.problems), []


def has(found: list[Problem], key: str, words: str) -> bool:
    """One of them is about `key` and has `words`."""
    return any(one.key == key and words in one.text for one in found)
