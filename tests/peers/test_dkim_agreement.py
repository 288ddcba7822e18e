"""The same mails before OpenDKIM, Mail::DKIM, dkimpy and us, with keys from one Knot: who calls which a pass.

Every mail of `tests/authenticate` that a server can carry is here. Where the four differ, DISAGREEMENTS says who
passes it and why we do what we do; what is not named there, all four pass or none does.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.authenticate import arc, dkim
from relay.resolver import Resolver
from tests.authenticate import test_arc, test_dkim
from tests.support.dkim_signer import dkim_signed, ed25519_key, rsa_key
from tests.support.dkim_verifiers import dkimpy, mail_dkim, mail_dkim_arc, opendkim
from tests.support.knot import running_knot

pytestmark = pytest.mark.xdist_group("dkim-verifiers")

DOMAIN = ".example.org"
# Two spaces behind a colon: `opendkim -t` loses one, so that the simple form has another field than was signed.
MAIL = test_dkim.MAIL.replace(b"Subject:  a", b"Subject: a")
MAILS = {
    # What tests/authenticate has about dates is about its own clock, and the peers have the real one.
    **{what: dkim_signed(MAIL, tags) for what, tags, _, _ in test_dkim.ROWS if not {"t", "x"} & set(tags)},
    **{what: change(dkim_signed(MAIL)) for what, change, _, _ in test_dkim.CHANGED},
    "t= in the past": dkim_signed(MAIL, {"t": "1000000000"}),
    "t= of tomorrow": dkim_signed(MAIL, {"t": str(int(time.time()) + 86400)}),
    "x= in the past": dkim_signed(MAIL, {"t": "1000000000", "x": "1000000001"}),
    "rsa-sha1": dkim_signed(MAIL, {"a": "rsa-sha1"}, sha="sha1"),
    "1024 bits": dkim_signed(MAIL, {"s": "b1024"}, rsa_key(1024)),
    "Ed25519": dkim_signed(MAIL, {"s": "e", "a": "ed25519-sha256"}, ed25519_key()),
}
for _other_zone in ("U-labels", "d= in U-labels, i= in A-labels", "a key behind a CNAME", "no final line end"):
    del MAILS[_other_zone]  # Knot has one zone with TXT records; SMTP ends the last line

# RFC 6376 §6.1.1: "Implementers MUST meticulously validate the format and values in the DKIM-Signature header field;
# any inconsistency or unexpected values MUST cause the header field to be completely ignored".
DISAGREEMENTS = {
    # We pass it, others do not
    "z= and q=": "relay opendkim",  # RFC 6376 §3.5: "Unrecognized query mechanisms MUST be ignored"
    "a key in PKCS#1": "relay dkimpy",  # §3.6.1: p= is an RSAPublicKey
    "a key for mail among others": "relay opendkim",  # §3.6.1: s= is "a colon-separated list", with white space
    "a key for SHA-256 among others": "relay opendkim dkimpy",  # §3.6.1: so is h=
    "the Subject in capitals": "relay opendkim Mail::DKIM",  # RFC 5322 §4.5: white space before the colon
    "Ed25519": "relay opendkim dkimpy",  # Debian 12's Mail::DKIM has none
    # Others pass it, we do not
    "no v=": "Mail::DKIM",  # §3.5: v= is REQUIRED
    "no h=": "Mail::DKIM",  # §3.5: h= is REQUIRED
    "no bh=": "Mail::DKIM",  # §3.5: bh= is REQUIRED
    "an empty h=": "Mail::DKIM dkimpy",  # §5.4: "The From header field MUST be signed"
    "h= without From": "Mail::DKIM dkimpy",  # §6.1.1: "return PERMFAIL (From field not signed)"
    "h= of junk": "opendkim Mail::DKIM dkimpy",  # §3.5: between two colons stands a name
    "d= with a final dot": "opendkim Mail::DKIM dkimpy",  # §3.5: d= is a domain-name, which has none
    "an empty l=": "Mail::DKIM",  # §3.5: l= has a digit at least
    "b= is no base64": "opendkim Mail::DKIM",  # §3.5: b= is base64
    "l= leaves an end unsigned": "opendkim Mail::DKIM dkimpy",  # §8.2: what stands behind l= anybody may have written
    "l=0": "opendkim dkimpy",  # the same
    "l= is larger than the body": "Mail::DKIM dkimpy",  # §3.5: "MUST NOT be larger than the actual number of octets"
    "l= of 76 digits": "Mail::DKIM dkimpy",  # the same
    "v= is not first in the key": "opendkim Mail::DKIM dkimpy",  # §3.6.1: "MUST be the first tag in the record"
    "a doubled tag in the key": "opendkim Mail::DKIM",  # §3.2: "Tags with duplicate names MUST NOT occur"
    "a key for SHA-1 only": "dkimpy",  # §3.6.1: h= lists the hashes that might be used
    "a key for no subdomains, and one": "dkimpy",  # §3.6.1: t=s "MUST have the same domain value"
    "a key of 5 kB": "Mail::DKIM dkimpy",  # no RFC has a limit; ours is five times what a key needs
    "t= of tomorrow": "Mail::DKIM",  # §3.5: "MAY ignore signatures that have a timestamp in the future"
    "rsa-sha1": "opendkim Mail::DKIM dkimpy",  # RFC 8301 §3.1: "MUST NOT be used for signing or verifying"
}
CHAIN_DISAGREEMENTS = {
    "Ed25519": "pass",  # RFC 8463 has it for DKIM, which RFC 8617 §4.1.2 takes its algorithms from
    "h= in a seal": "fail",  # RFC 8617 §4.1.3: "MUST result in a cv status of "fail""
    "the AMS covers no From": "fail",  # RFC 6376 §5.4
    "the AMS covers a part of the body": "fail",  # RFC 6376 §8.2
}
CHAINS = {what: message for what, message, *_ in [*test_arc.FAIL, *test_arc.PASS] if what != "a seal is of tomorrow"}


def texts() -> dict[str, str]:
    """The key records of tests/authenticate that are plain text, by name."""
    found = {}
    for name, records in {**test_arc.ZONE, **test_dkim.ZONE}.items():
        text = records[0].get("TXT") if isinstance(records[0], dict) else None
        if name.endswith(f"_domainkey{DOMAIN}") and text:
            found[name] = text if isinstance(text, str) else "".join(text)
    return found


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    zone = {
        name.removesuffix(DOMAIN): ["TXT " + " ".join(f'"{text[at : at + 200]}"' for at in range(0, len(text), 200))]
        for name, text in texts().items()
    }
    with running_knot({"example.org": zone}) as found:
        yield found


def opendkim_passes(message: bytes, port: int, folder: Path) -> bool:
    try:
        return [one.result for one in opendkim(message, port, folder)] == ["pass"]
    except subprocess.CalledProcessError as error:
        assert error.returncode == 70, error  # EX_SOFTWARE: its test mode gives up where a tag list cannot be read
        return False


def dkimpy_passes(message: bytes) -> bool:
    try:
        return dkimpy(message, texts()) == [True]
    except Exception:  # errors of many kinds for what it cannot read
        return False


@pytest.mark.parametrize("what", MAILS)
async def test_who_calls_a_mail_a_pass(port: int, tmp_path: Path, what: str) -> None:
    message = MAILS[what]
    resolver = Resolver([f"127.0.0.1:{port}"], timeout=5.0)
    [ours] = await dkim.verify(message, resolver)
    await resolver.close()
    passes = {
        "relay": ours.result == "pass",
        "opendkim": opendkim_passes(message, port, tmp_path),
        "Mail::DKIM": [one.result for one in mail_dkim(message, port)] == ["pass"],
        "dkimpy": dkimpy_passes(message),
    }
    passed = " ".join(name for name, does in passes.items() if does)
    if what in DISAGREEMENTS:
        assert passed == DISAGREEMENTS[what], ours.problem
    else:
        assert passed in ("", " ".join(passes)), ours.problem


@pytest.mark.parametrize("what", CHAINS)
async def test_mail_dkim_reads_a_chain_as_we_do(port: int, what: str) -> None:
    resolver = Resolver([f"127.0.0.1:{port}"], timeout=5.0)
    ours = await arc.verify(CHAINS[what], resolver)
    await resolver.close()
    agrees = (mail_dkim_arc(CHAINS[what], port) == "pass") == (ours.result == "pass")
    assert agrees == (what not in CHAIN_DISAGREEMENTS), ours.problem
    if not agrees:
        assert ours.result == CHAIN_DISAGREEMENTS[what]
