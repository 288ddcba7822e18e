"""SPF against pyspf, on records put together at random: same result, or a difference that is argued.

pyspf is asked in its strict mode, which is RFC 7208's, and gets the same zone in its own lookup function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
import spf as pyspf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.authenticate.spf import check_mail_from
from relay.errors import DnsTrouble, NoData, NoSuchName
from relay.resolver import Questions
from relay.resolver_cache import Answer, Question
from relay.verdict import SpfVerdict

ZONE: dict[str, list[tuple[str, Any]]] = {
    "host.example.org": [("A", "192.0.2.8"), ("AAAA", "2001:db8::8")],
    "four.example.org": [("A", "198.51.100.4"), ("A", "192.0.2.1")],
    "six.example.org": [("AAAA", "2001:db8::1")],
    "mx.example.org": [("MX", (10, "host.example.org")), ("MX", (20, "four.example.org"))],
    "pass.example.org": [("TXT", b"v=spf1 ip4:192.0.2.0/28 ip6:2001:db8::/32 -all")],
    "fail.example.org": [("TXT", b"v=spf1 -all exp=why.example.org")],
    "soft.example.org": [("TXT", b"v=spf1 a:four.example.org ~all")],
    "wrong.example.org": [("TXT", b"v=spf1 foo -all")],
    "two.example.org": [("TXT", b"v=spf1 -all"), ("TXT", b"v=spf1 +all")],
    "trouble.example.org": [("trouble", "")],
    "why.example.org": [("TXT", b"%{c} is not %{d}")],
    "ann.example.org": [("A", "127.0.0.2")],
    "1.2.0.192.in-addr.arpa": [("PTR", "four.example.org"), ("PTR", "host.example.org")],
    "8.2.0.192.in-addr.arpa": [("PTR", "host.example.org")],
}
NAMES = [*(name for name in ZONE if not name.endswith("arpa")), "missing.example.org"]


class ZoneQuestions(Questions):
    async def _ask(self, question: Question) -> Answer:
        records = ZONE_NOW.get(question.name)
        if records is None:
            return Answer(error=NoSuchName, text="no such name")
        if ("trouble", "") in records:
            return Answer(error=DnsTrouble, text="trouble")
        found = [value for kind, value in records if kind == question.kind]
        if question.kind in ("A", "AAAA"):
            found = [ip_address(value) for value in found]
        return Answer(tuple(found)) if found else Answer(error=NoData, text="no data")


ZONE_NOW: dict[str, list[tuple[str, Any]]] = {}


def lookup(name: str, kind: str, *_: object, **__: object) -> Iterator[tuple[tuple[str, str], Any]]:
    """pyspf's DNSLookup."""
    records = ZONE_NOW.get(name.lower(), [])
    if ("trouble", "") in records:
        raise pyspf.TempError("trouble")
    for type_, value in records:
        if type_ == kind:
            yield (name, kind), (value,) if kind == "TXT" else value


def of_pyspf(ip: str, sender: str, helo: str) -> tuple[str, str]:
    query = pyspf.query(i=ip, s=sender, h=helo, strict=True, timeout=20, querytime=0)
    query.set_default_explanation("")
    result, _, explanation = query.check()
    return str(result), str(explanation)


target = st.sampled_from(NAMES)
domain = st.one_of(
    target,
    st.sampled_from(
        ["%{d}", "%{o}", "%{l}.example.org", "%{l}.%{d}", "%{h}", "%{i}.example.org", "x.%{d2}", "%{d1r}.x%_y.z"]
    ),
    st.sampled_from(
        ["example", "a..example.org", "example.org.", "x" * 64 + ".example.org", "1.2.3.4", "%{x}", "%%.org"]
    ),
)
lengths = st.sampled_from(["", "", "", "/24", "//64", "/24//64", "/0", "//0", "/33", "/x", "/"])
mechanism = st.one_of(
    st.just("all"),
    st.builds("include:{}".format, domain),
    st.builds("exists:{}".format, domain),
    st.builds("{}{}".format, st.sampled_from(["a", "mx"]), lengths),
    st.builds("{}:{}{}".format, st.sampled_from(["a", "mx", "A", "Mx"]), domain, lengths),
    st.sampled_from(["ptr", "ptr:example.org", "ptr:four.example.org", "ptr/24"]),
    st.sampled_from(
        ["ip4:192.0.2.1", "ip4:192.0.2.0/28", "ip4:0.0.0.0/0", "ip4:192.0.2", "ip4:192.0.2.1/33", "ip4:::1"]
    ),
    st.sampled_from(["ip6:2001:db8::/32", "ip6:::/0", "ip6:2001:db8::1", "ip6:x", "ip6:::1/129"]),
)
modifier = st.one_of(
    st.builds("{}={}".format, st.sampled_from(["redirect", "exp"]), domain),
    st.sampled_from(["x=y", "x=", "default=pass", "x=%", "=y"]),
)
term = st.one_of(st.builds("{}{}".format, st.sampled_from(["", "", "+", "-", "~", "?"]), mechanism), modifier)
record = st.lists(term, max_size=6).map(lambda terms: " ".join(["v=spf1", *terms]))
client = st.sampled_from(["192.0.2.1", "192.0.2.8", "198.51.100.9", "2001:db8::1", "2001:db8::8", "2001:db9::1"])


def test_the_same_result_as_pyspf_or_an_argued_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyspf, "DNSLookup", lookup)
    counts = {"agreed": 0, "argued": 0}

    @settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(record, client, st.sampled_from(["four.example.org", "missing.example.org"]))
    def compare(text: str, ip: str, helo: str) -> None:
        ZONE_NOW.clear()
        ZONE_NOW.update(ZONE)
        ZONE_NOW["example.org"] = [("TXT", text.encode()), ("A", "198.51.100.9"), ("MX", (1, "host.example.org"))]
        ours = asyncio.run(check_mail_from(ip, "ann@example.org", helo, ZoneQuestions()))
        theirs, note = of_pyspf(ip, "ann@example.org", helo)
        if ours.result == theirs and (theirs != "fail" or ours.explanation == note):
            counts["agreed"] += 1
            return
        argument = why_we_differ(text, ours, theirs, note)
        assert argument, (text, ip, helo, ours, theirs, note)
        counts["argued"] += 1

    compare()
    assert counts["agreed"] > 5 * counts["argued"], counts


def why_we_differ(text: str, ours: SpfVerdict, theirs: str, note: str) -> str:
    """The argument for the difference, "" when there is none."""
    if theirs != "permerror":
        return ""
    if "MUST appear at most once" in note and note.split()[3] in ("x=", "default="):
        return (
            "RFC 7208 §6: only redirect and exp must not be repeated; unknown ones are ignored however often they come"
        )
    if "trivial recursion" in note and (ours.mechanism or ours.result == "temperror"):
        return "RFC 7208 §4.6.2: terms go from left to right, and one before the include of itself has decided"
    if "Void lookup limit" in note and ours.void_lookups <= 2:
        return "RFC 7208 §4.6.4 counts the terms that come back void; pyspf counts questions"
    return ""
