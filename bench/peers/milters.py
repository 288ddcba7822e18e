"""Postfix's companions: OpenDKIM and OpenDMARC as milters, policyd-spf as policy service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.site import SELECTOR, Site
from tests.support.peers import require, running, wait_until

_NOBODY = "203.0.113.1"  # takes the place of 127.0.0.1 in lists of clients to be left alone

_SIGNER = """\
Mode s
Domain example.org
Selector {selector}
KeyFile {key}
RequireSafeKeys no
Canonicalization relaxed/relaxed
InternalHosts {hosts}
Socket local:{socket}
UMask 000
"""
_VERIFIER = """\
Mode v
AuthservID {hostname}
AlwaysAddARHeader yes
InternalHosts {hosts}
Nameservers 127.0.0.1
Socket local:{socket}
UMask 000
"""
_DMARC = """\
AuthservID {hostname}
IgnoreHosts {hosts}
PublicSuffixList {suffixes}
Socket local:{socket}
UMask 000
"""
_SPF = """\
debugLevel = 0
TestOnly = 1
HELO_reject = Fail
Mail_From_reject = Fail
PermError_reject = False
TempError_Defer = False
skip_addresses = {nobody}
"""


@dataclass(frozen=True, slots=True)
class Milter:
    socket: Path
    pid: int


@contextmanager
def opendkim_signer(site: Site, folder: Path) -> Iterator[Milter]:
    hosts = folder / "signed-hosts"
    hosts.write_text("0.0.0.0/0\n")
    text = _SIGNER.format(selector=SELECTOR, key=site.key, hosts=hosts, socket=folder / "opendkim.sock")
    with _running("opendkim", ["-f", "-x"], text, folder) as milter:
        yield milter


@contextmanager
def opendkim_verifier(folder: Path, hostname: str) -> Iterator[Milter]:
    """With `ResolverConfiguration` instead of `Nameservers`, OpenDKIM 2.11 crashes in libunbound under 20 sessions."""
    hosts = folder / "trusted-hosts"
    hosts.write_text(f"{_NOBODY}\n")
    text = _VERIFIER.format(hostname=hostname, hosts=hosts, socket=folder / "opendkim.sock")
    with _running("opendkim", ["-f", "-x"], text, folder) as milter:
        yield milter


@contextmanager
def opendmarc(folder: Path, hostname: str) -> Iterator[Milter]:
    hosts, suffixes = folder / "ignored-hosts", folder / "suffixes"
    hosts.write_text(f"{_NOBODY}\n")
    suffixes.write_text("com\norg\n")
    text = _DMARC.format(hostname=hostname, hosts=hosts, suffixes=suffixes, socket=folder / "opendmarc.sock")
    with _running("opendmarc", ["-f", "-c"], text, folder) as milter:
        yield milter


def policyd_spf(folder: Path) -> list[str]:
    """The command that Postfix's spawn(8) runs."""
    program = require("policyd-spf", "postfix-policyd-spf-python")
    configuration = folder / "policyd-spf.conf"
    configuration.write_text(_SPF.format(nobody=_NOBODY))
    return [program, str(configuration)]


@contextmanager
def _running(name: str, options: list[str], text: str, folder: Path) -> Iterator[Milter]:
    program = require(name, name)
    configuration, socket = folder / f"{name}.conf", folder / f"{name}.sock"
    configuration.write_text(text)
    with running([program, *options, str(configuration)], log=folder / f"{name}.log", ports=[]) as process:
        wait_until(f"{name} listens", socket.exists)
        yield Milter(socket, process.pid)
        process.kill()  # it has nothing to lose, and libmilter takes five seconds to end in order
