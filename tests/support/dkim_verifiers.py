"""Foreign DKIM verifiers that ask a DNS server of ours: OpenDKIM, Perl's Mail::DKIM, and dkimpy with a dict."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import dkim

from tests.support.peers import PATIENCE, missing, require

_PERL = """
use strict; use warnings;
use Mail::DKIM::Verifier; use Mail::DKIM::DNS; use Net::DNS;
my $port = shift;
Mail::DKIM::DNS::resolver(Net::DNS::Resolver->new(nameservers => ['127.0.0.1'], port => $port, recurse => 0));
binmode STDIN; local $/;
my $verifier = Mail::DKIM::Verifier->new; $verifier->PRINT(<STDIN>); $verifier->CLOSE;
for ($verifier->signatures) { print join(" ", split(/\\s+/, $_->selector . " " . $_->result_detail)), "\\n" }
"""

_PERL_ARC = (
    _PERL.replace("Mail::DKIM::Verifier", "Mail::DKIM::ARC::Verifier").partition("for (")[0]
    + """
print $verifier->result, "\\n";
"""
)


class Checked(NamedTuple):
    """What a verifier says of one signature. result: its own word, `pass` when it verifies."""

    selector: str
    result: str


def opendkim(message: bytes, dns_port: int, folder: Path) -> list[Checked]:
    """OpenDKIM's verdicts, in order of appearance. It asks libunbound, which asks 127.0.0.1:`dns_port`."""
    program = require("opendkim", "opendkim")
    resolver, configuration, file = folder / "unbound.conf", folder / "opendkim.conf", folder / "message"
    resolver.write_text(
        'server:\n  do-not-query-localhost: no\n  module-config: "iterator"\n'
        f'forward-zone:\n  name: "."\n  forward-addr: 127.0.0.1@{dns_port}\n'
    )
    configuration.write_text(
        f"Mode v\nSyslog no\nResolverConfiguration {resolver}\nAlwaysAddARHeader yes\nAuthservID verifier.example\n"
    )
    file.write_bytes(message)
    ran = subprocess.run(
        [program, "-x", configuration, "-t", file, "-vvv"], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    results = re.findall(r"dkim=(\w+)[^\n]*?header\.s=([\w.-]+)", ran.stdout)
    return [Checked(selector, result) for result, selector in results]


def mail_dkim(message: bytes, dns_port: int) -> list[Checked]:
    """Mail::DKIM's verdicts, in order of appearance."""
    return [Checked(*line.split(" ", 1)) for line in _perl(_PERL, message, dns_port)]


def mail_dkim_arc(message: bytes, dns_port: int) -> str:
    """Mail::DKIM's word for the ARC chain: `none`, `pass`, `fail`, …"""
    return _perl(_PERL_ARC, message, dns_port)[0]


@cache
def _has_mail_dkim(perl: str) -> bool:
    return subprocess.run([perl, "-MMail::DKIM", "-MNet::DNS", "-e", "1"], capture_output=True).returncode == 0


def _perl(script: str, message: bytes, dns_port: int) -> list[str]:
    program = require("perl", "perl")
    if not _has_mail_dkim(program):
        missing("Mail::DKIM is not installed: apt install libmail-dkim-perl")
    ran = subprocess.run(
        [program, "-e", script, str(dns_port)], input=message, capture_output=True, timeout=PATIENCE, check=True
    )
    return ran.stdout.decode().splitlines()


def dkimpy(message: bytes, records: Mapping[str, str]) -> list[bool]:
    """Whether dkimpy verifies each signature, in order of appearance. records: TXT values by name, no final dot.

    Raises dkim.MessageFormatError when it cannot read the message.
    """

    def txt(name: bytes, timeout: float = 0) -> bytes | None:
        record = records.get(name.decode().rstrip(".").lower())
        return record.encode() if record else None

    verifier = dkim.DKIM(message)
    count = sum(name.lower() == b"dkim-signature" for name, _ in verifier.headers)
    verified = []
    for index in range(count):
        try:
            verified.append(verifier.verify(idx=index, dnsfunc=txt))
        except dkim.ValidationError:
            verified.append(False)
    return verified
