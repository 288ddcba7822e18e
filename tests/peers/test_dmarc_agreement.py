"""The same domains, mails and records, from one Knot, before OpenDMARC's library and us: who calls which a pass.

OpenDMARC (Debian 12: 1.4.2) knows RFC 7489 and a public suffix list, we know RFC 9989 and the tree walk. AGREED is
what both judge alike; DISAGREEMENTS has OpenDMARC's verdict, ours, and the rule that ours follows.
It asks the same Knot: the library takes name servers as it starts. Its milter's part (pct) is not in the library.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Iterator, Sequence
from ctypes.util import find_library
from pathlib import Path
from typing import NamedTuple

import pytest

from relay.authenticate import dmarc
from relay.resolver import Resolver
from relay.verdict import DmarcResult
from tests.support.knot import running_knot
from tests.support.peers import PATIENCE, missing

pytestmark = pytest.mark.xdist_group("dmarc-agreement")


class Mail(NamedTuple):
    """author: the domain in From. spf: MAIL FROM's domain, if it passed. dkim: each d= that passed."""

    author: str
    spf: str = ""
    dkim: Sequence[str] = ()


# One top-level domain. OpenDMARC's list has it and co.example; that bank.example is a public suffix, only DNS says.
SUFFIXES = ("example", "co.example")
ZONE = {
    name: [f'TXT "{text}"' for text in texts]
    for name, texts in {
        "_dmarc.reject": ["v=DMARC1; p=reject"],
        "sub.reject": ["there"],
        "_dmarc.quarantine": ["v=DMARC1; p=quarantine"],
        "_dmarc.watch": ["v=DMARC1; p=none; rua=mailto:d@watch.example"],
        "_dmarc.strict": ["v=DMARC1; p=reject; adkim=s; aspf=s"],
        "_dmarc.strict-spf": ["v=DMARC1; p=reject; aspf=s"],
        "_dmarc.lenient": ["v=DMARC1; p=reject; sp=none"],
        "_dmarc.harsh": ["v=DMARC1; p=none; sp=reject"],
        "_dmarc.own.harsh": ["v=DMARC1; p=quarantine"],
        "_dmarc.shop.co": ["v=DMARC1; p=reject"],
        "_dmarc.capitals": ["V=DMARC1; p=reject"],
        "_dmarc.capital-p": ["v=DMARC1; P=Reject"],
        "_dmarc.spaces": ["v = DMARC1 ;  p = quarantine ;"],
        "_dmarc.unknown-tag": ["v=DMARC1; p=reject; x=y"],
        "_dmarc.other-text": ["v=spf1 -all", "v=DMARC1; p=reject"],
        "_dmarc.not-dmarc": ["v=DMARC2; p=reject"],
        "silent": ["no record of DMARC"],
        "_dmarc.np": ["v=DMARC1; p=none; sp=quarantine; np=reject"],
        "there.np": ["there"],
        "_dmarc.testing": ["v=DMARC1; p=reject; t=y"],
        "_dmarc.sampled": ["v=DMARC1; p=reject; pct=0"],
        "_dmarc.bank": ["v=DMARC1; p=reject; psd=y"],
        "_dmarc.one.bank": ["v=DMARC1; p=quarantine"],
        "_dmarc.unit.corp": ["v=DMARC1; p=reject; psd=n"],
        "_dmarc.corp": ["v=DMARC1; p=none"],
        "_dmarc.middle.tall": ["v=DMARC1; p=quarantine"],
        "_dmarc.tall": ["v=DMARC1; p=none"],
        "_dmarc.above.no-top": ["v=DMARC1; p=reject"],
        "_dmarc.no-p": ["v=DMARC1; rua=mailto:d@no-p.example"],
        "_dmarc.no-p-no-rua": ["v=DMARC1; adkim=s"],
        "_dmarc.bad-p": ["v=DMARC1; p=bounce; rua=mailto:d@bad-p.example"],
        "_dmarc.bad-sp": ["v=DMARC1; p=reject; sp=bounce; rua=mailto:d@bad-sp.example"],
        "_dmarc.bad-adkim": ["v=DMARC1; p=reject; adkim=x"],
        "_dmarc.bad-pct": ["v=DMARC1; p=reject; pct=all"],
        "_dmarc.late-p": ["v=DMARC1; rua=mailto:d@late-p.example; p=reject"],
        "_dmarc.two": ["v=DMARC1; p=reject", "v=DMARC1; p=none"],
    }.items()
}
AGREED = {
    # Alignment (RFC 9989 §4.4)
    "nothing passed": Mail("reject.example"),
    "SPF of the same domain": Mail("reject.example", "reject.example"),
    "SPF of a subdomain": Mail("reject.example", "bounce.reject.example"),
    "SPF of a stranger": Mail("reject.example", "watch.example"),
    "DKIM of the same domain": Mail("reject.example", dkim=["reject.example"]),
    "DKIM of a subdomain": Mail("reject.example", dkim=["news.reject.example"]),
    "DKIM of a stranger": Mail("reject.example", dkim=["watch.example"]),
    "DKIM of a stranger, then of the same": Mail("reject.example", dkim=["watch.example", "reject.example"]),
    "SPF of a stranger, DKIM of the same": Mail("reject.example", "watch.example", ["reject.example"]),
    "a name that only ends alike": Mail("reject.example", "notreject.example", ["notreject.example"]),
    "a subdomain, DKIM of its parent": Mail("sub.reject.example", dkim=["reject.example"]),
    "a subdomain, SPF of its sibling": Mail("sub.reject.example", "other.reject.example"),
    "the author domain in capitals": Mail("REJECT.Example", "reject.EXAMPLE"),
    "strict, SPF of the same domain": Mail("strict.example", "strict.example"),
    "strict for SPF, DKIM of a subdomain": Mail("strict-spf.example", "a.strict-spf.example", ["a.strict-spf.example"]),
    "strict, DKIM of the parent": Mail("sub.strict.example", dkim=["strict.example"]),
    "a shop below a listed suffix": Mail("shop.co.example", "mail.shop.co.example"),
    "a mail of another shop there": Mail("shop.co.example", "rival.co.example", ["rival.co.example"]),
    # Which policy (RFC 9989 §4.10.1)
    "p=quarantine": Mail("quarantine.example"),
    "p=none": Mail("watch.example"),
    "a subdomain has p without sp": Mail("sub.reject.example"),
    "sp=none": Mail("sub.lenient.example"),
    "sp does not count for the domain itself": Mail("lenient.example"),
    "sp=reject": Mail("sub.harsh.example"),
    "a subdomain's own record": Mail("own.harsh.example"),
    "no record anywhere": Mail("silent.example"),
    "no such domain": Mail("nowhere.example"),
    "an unknown tag": Mail("unknown-tag.example"),
    "sp where np says more, the name exists": Mail("there.np.example"),
    "psd=y, its own mail": Mail("bank.example"),
    "a bank with a record": Mail("one.bank.example", "mail.one.bank.example"),
    "below a psd=y that the list does not know": Mail("two.bank.example"),
    "records in the middle and on top": Mail("low.middle.tall.example"),
    "pct=0, which is the milter's with them and obsolete with us": Mail("sampled.example"),
    "pct is invalid": Mail("bad-pct.example"),
    "p is last": Mail("late-p.example"),
    "p in capitals": Mail("capital-p.example", dkim=["a.capital-p.example"]),
}
DISAGREEMENTS = {
    # RFC 9989 §4.4: strict means equal. OpenDMARC cuts what passed to its organizational domain first, if it has a
    # suffix list (its pull request 354 mends that)
    "strict, SPF of a subdomain": (Mail("strict.example", "bounce.strict.example"), "pass", "fail reject"),
    "strict, DKIM of a subdomain": (Mail("strict.example", dkim=["news.strict.example"]), "pass", "fail reject"),
    "strict SPF, of a subdomain": (Mail("strict-spf.example", "a.strict-spf.example"), "pass", "fail reject"),
    # §4.7: np is for names that do not exist; RFC 7489 has no np
    "np, no such name": (Mail("gone.np.example"), "fail quarantine", "fail reject"),
    # §4.7: t=y asks for one step less; RFC 7489 has pct instead
    "t=y": (Mail("testing.example"), "fail reject", "fail quarantine"),
    # §4.10.2: one label below psd=y is an Organizational Domain; on the suffix list, bank.example is that of all banks
    "psd=y, SPF of another bank": (Mail("one.bank.example", "two.bank.example"), "pass", "fail quarantine"),
    # §4.10.2: psd=n names the Organizational Domain, which the list has one label higher
    "psd=n, SPF of the company": (Mail("unit.corp.example", "corp.example"), "pass", "fail reject"),
    "psd=n above the author domain": (Mail("desk.unit.corp.example"), "fail none", "fail reject"),
    # §4.10: the walk visits each name above; RFC 7489 §6.6.3 asks the author domain and the Organizational Domain only
    "a record in the middle only": (Mail("low.above.no-top.example"), "none", "fail reject"),
    # §4.10.2: a suffix without a record is its own Organizational Domain, and not that of a shop below it
    "SPF of the listed suffix": (Mail("shop.co.example", "co.example"), "pass", "fail reject"),
    # §4.10.1: without a valid p, or with an invalid sp, a valid rua means p=none, no rua no DMARC.
    # RFC 7489 §6.6.3 says the same; OpenDMARC takes the record for none of DMARC's
    "p is missing, rua is there": (Mail("no-p.example"), "invalid", "fail none"),
    "p and rua are missing": (Mail("no-p-no-rua.example"), "invalid", "none"),
    "p is invalid, rua is there": (Mail("bad-p.example"), "invalid", "fail none"),
    "sp is invalid, rua is there": (Mail("bad-sp.example"), "invalid", "fail none"),
    # §4.7: what is wrong in another tag costs this tag, and its default holds
    "adkim is invalid": (Mail("bad-adkim.example"), "invalid", "fail reject"),
    # §4.10: a text that begins with no v=DMARC1 is passed over; OpenDMARC looks at the first text only
    "another version": (Mail("not-dmarc.example"), "invalid", "none"),
    "another text beside the record": (Mail("other-text.example"), "none", "fail reject"),
    # §4.10: several records are all discarded; OpenDMARC takes the first
    "two records": (Mail("two.example"), "fail none", "none"),
    # §4.8: names of tags are in any case, and white space may stand around "="
    "V= for v=": (Mail("capitals.example"), "none", "fail reject"),
    "white space around the = of v": (Mail("spaces.example"), "none", "fail quarantine"),
}


class _Library(ctypes.Structure):
    """OPENDMARC_LIB_T of opendmarc/dmarc.h."""

    _fields_ = (
        ("tld_type", ctypes.c_int),
        ("tld_source_file", ctypes.c_char * 4096),
        ("nscount", ctypes.c_int),
        ("nsaddr_list", ctypes.c_char * 16 * 3),
    )


_MOZILLA = 1  # OPENDMARC_TLD_TYPE_MOZILLA
_PASS = 1  # DMARC_POLICY_SPF_OUTCOME_PASS and DMARC_POLICY_DKIM_OUTCOME_PASS
_MAILFROM = 1  # DMARC_POLICY_SPF_ORIGIN_MAILFROM
# DMARC_PARSE_…, DMARC_DNS_ERROR_… and DMARC_POLICY_…
_ASKED = {3: "invalid", 4: "invalid", 5: "invalid", 9: "none", 10: "none", 11: "temperror"}
_POLICY = {14: "none", 15: "pass", 16: "fail reject", 17: "fail quarantine", 18: "fail none"}


class OpenDmarc:
    """libopendmarc with a public suffix list of its own, asking the name server on 127.0.0.1:`port`."""

    def __init__(self, suffixes: Path, port: int) -> None:
        name = find_library("opendmarc")
        if name is None:
            missing("libopendmarc is not installed: apt install libopendmarc2")
        self._c = ctypes.CDLL(name)
        self._c.opendmarc_policy_connect_init.restype = ctypes.c_void_p
        address = int(socket.AF_INET).to_bytes(2, "little") + port.to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)
        self._settings = _Library(_MOZILLA, bytes(suffixes), 1)
        ctypes.memmove(self._settings.nsaddr_list, address, len(address))
        assert self._c.opendmarc_policy_library_init(ctypes.byref(self._settings)) == 0

    def close(self) -> None:
        self._c.opendmarc_policy_library_shutdown(ctypes.byref(self._settings))

    def verdict(self, mail: Mail) -> str:
        context = ctypes.c_void_p(self._c.opendmarc_policy_connect_init(b"192.0.2.1", 4))
        try:
            assert self._c.opendmarc_policy_store_from_domain(context, mail.author.encode()) == 0
            if mail.spf:
                assert self._c.opendmarc_policy_store_spf(context, mail.spf.encode(), _PASS, _MAILFROM, None) == 0
            for domain in mail.dkim:
                assert self._c.opendmarc_policy_store_dkim(context, domain.encode(), b"s", _PASS, None) == 0
            asked = self._c.opendmarc_policy_query_dmarc(context, None)
            if asked:
                return _ASKED[asked]
            return _POLICY[self._c.opendmarc_get_policy_to_enforce(context)]
        finally:
            self._c.opendmarc_policy_connect_shutdown(context)


@pytest.fixture(scope="module")
def nameserver() -> Iterator[int]:
    with running_knot({"example": ZONE}) as port:
        yield port


@pytest.fixture(scope="module")
def opendmarc(nameserver: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenDmarc]:
    suffixes = tmp_path_factory.mktemp("opendmarc") / "suffixes"
    suffixes.write_text("\n".join(SUFFIXES) + "\n")
    library = OpenDmarc(suffixes, nameserver)
    yield library
    library.close()


async def both(library: OpenDmarc, port: int, mail: Mail) -> tuple[str, str]:
    """OpenDMARC's verdict and ours."""
    resolver = Resolver([f"127.0.0.1:{port}"], PATIENCE)
    ours = await dmarc.evaluate(mail.author, mail.spf or None, mail.dkim, resolver)
    await resolver.close()
    policy = f" {ours.disposition.value}" if ours.result is DmarcResult.FAIL else ""
    return library.verdict(mail), ours.result.value + policy


@pytest.mark.parametrize("what", AGREED)
async def test_opendmarc_judges_as_we_do(opendmarc: OpenDmarc, nameserver: int, what: str) -> None:
    theirs, ours = await both(opendmarc, nameserver, AGREED[what])
    assert theirs == ours


@pytest.mark.parametrize("what", DISAGREEMENTS)
async def test_where_opendmarc_judges_otherwise_a_rule_says_why(
    opendmarc: OpenDmarc, nameserver: int, what: str
) -> None:
    mail, theirs, ours = DISAGREEMENTS[what]
    assert await both(opendmarc, nameserver, mail) == (theirs, ours)
