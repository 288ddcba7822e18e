"""HAProxy as the load balancer before the relay: it says who the client is, by PROXY protocol version 1 or 2.

All tests come from loopback, so each frontend is told which address its clients have (`set-src`).
"""

from __future__ import annotations

import csv
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from tests.support.peers import PATIENCE, free_port, open_folder, require, running

_GLOBAL = """\
global
  log stdout format raw local0
  stats socket {folder}/stats
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout check 10s
"""


@dataclass(frozen=True, slots=True)
class Way:
    """To a server's `port`, for clients of address `source`. version: of the PROXY protocol; 0 says nothing of them.

    checked: the server is taken for down while a health check fails, of TCP for version 1, of SMTP for version 2.
    """

    port: int
    source: str
    version: int = 2
    checked: bool = False


class HAProxy:
    """A running HAProxy. ports: of its frontends on 127.0.0.1, by name."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self._folder = folder
        self.ports = ports

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def health(self, name: str) -> str:
        """What the last check of the server behind frontend `name` found: `L4OK`, `L4CON` … or `INI` before it."""
        with socket.socket(socket.AF_UNIX) as stats:
            stats.settimeout(PATIENCE)
            stats.connect(str(self._folder / "stats"))
            stats.sendall(b"show stat\n")
            with stats.makefile(newline="") as answer:
                rows = csv.DictReader(answer.read().removeprefix("# ").strip().splitlines())
        return next(row["check_status"] for row in rows if (row["pxname"], row["svname"]) == (name, "relay"))


@contextmanager
def running_haproxy(ways: Mapping[str, Way], ports: Mapping[str, int] | None = None) -> Iterator[HAProxy]:
    """Start one with a frontend for each of `ways`, end it with the block. ports: theirs, else free ones."""
    program = require("haproxy", "haproxy")
    with open_folder("haproxy") as folder:
        own_ports = dict(ports or {name: free_port() for name in ways})
        conf = folder / "haproxy.cfg"
        conf.write_text(
            _GLOBAL.format(folder=folder) + "".join(_section(name, own_ports[name], way) for name, way in ways.items())
        )
        command: Sequence[str] = [program, "-db", "-f", str(conf)]
        with running(command, log=folder / "log", ports=sorted(own_ports.values())):
            yield HAProxy(folder, own_ports)


def _section(name: str, port: int, way: Way) -> str:
    if ip_address(way.source).version == 4:
        addresses = f"  tcp-request connection set-src ipv4({way.source})\n"
    else:  # both ends of a PROXY header are of one family
        addresses = f"  tcp-request connection set-src ipv6({way.source})\n"
        addresses += "  tcp-request connection set-dst ipv6(2001:db8::1)\n"
    proxy = ("", " send-proxy", " send-proxy-v2")[way.version]
    check = " check inter 100ms fall 1 rise 1" if way.checked else ""
    if way.checked and way.version == 2:
        addresses += "  option smtpchk EHLO haproxy.example\n"
    return f"listen {name}\n  bind 127.0.0.1:{port}\n{addresses}  server relay 127.0.0.1:{way.port}{proxy}{check}\n"
