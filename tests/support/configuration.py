"""A configuration that loads, to be spoilt in one place at a time."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from relay.config.files import read_file
from relay.config.finding import World
from relay.config.networks import Machine
from relay.config.source import Loaded, read

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
OWN_ADDRESS = IPv4Address("198.51.100.7")


def is_own(address: IPv4Address | IPv6Address) -> bool:
    return address == OWN_ADDRESS


WORLD = World(
    read=read_file,
    machine=Machine(frozenset({"thishost"}), is_own),
    user=os.geteuid(),
    now=datetime(2026, 1, 1, tzinfo=UTC),
)


def read_good(folder: Path, overrides: dict[str, object] | None = None, world: World = WORLD) -> Loaded:
    """`GOOD`, written into `folder` and read with `overrides` by dotted key. Raises ConfigError."""
    file = folder / "config.toml"
    file.write_text(GOOD)
    return read(file, {}, overrides, world)
