"""Foreign DKIM verifiers that ask a DNS server of ours: OpenDKIM, Perl's Mail::DKIM, and dkimpy with a dict."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
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
print join("\\t", $_->selector, $_->result_detail), "\\n" for $verifier->signatures;
"""


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
    program = require("perl", "perl")
    if subprocess.run([program, "-MMail::DKIM", "-MNet::DNS", "-e", "1"], capture_output=True).returncode:
        missing("Mail::DKIM is not installed: apt install libmail-dkim-perl")
    ran = subprocess.run(
        [program, "-e", _PERL, str(dns_port)], input=message, capture_output=True, timeout=PATIENCE, check=True
    )
    return [Checked(*line.split("\t", 1)) for line in ran.stdout.decode().splitlines()]


def dkimpy(message: bytes, records: Mapping[str, str]) -> list[bool]:
    """Whether dkimpy verifies each signature, in order of appearance. records: TXT values by name, no final dot.

    Raises dkim.MessageFormatError when it cannot read the message.
    """

    def txt(name: bytes, timeout: float = 0) -> bytes | None:
        record = records.get(name.decode().rstrip("."))
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
