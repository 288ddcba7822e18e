"""DMARC of RFC 9989, through the real resolver against a DNS server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from relay.authenticate.dmarc import Found, evaluate, names, organizational_domain
from relay.authenticate.dmarc_record import Record, parse
from relay.resolver import Resolver
from relay.verdict import DmarcVerdict
from tests.support.dns import DnsServer, dns_server
from tests.support.suites import suite


@asynccontextmanager
async def dns(zone: Mapping[str, Any]) -> AsyncIterator[tuple[DnsServer, Resolver]]:
    async with dns_server(zone) as server:
        resolver = Resolver([server.nameserver], timeout=2.0)
        try:
            yield server, resolver
        finally:
            await resolver.close()


def published(records: Mapping[str, str | list[str]]) -> dict[str, list[Any]]:
    """A zone in which each domain exists and has these records under `_dmarc`; a bare word is no TXT."""
    zone: dict[str, list[Any]] = {}
    for name, found in records.items():
        texts = [found] if isinstance(found, str) else found
        zone[name] = [{"A": "192.0.2.1"}]
        zone[f"_dmarc.{name}"] = [{"TXT": text} if "=" in text else text for text in texts]
    return zone


async def ask(
    records: Mapping[str, str | list[str]],
    author: str,
    spf: str | None = None,
    dkim: Iterable[str] = (),
    undecided: Iterable[str] = (),
    **more: Any,
) -> DmarcVerdict:
    async with dns({**published(records), **more}) as (_, resolver):
        return await evaluate(author, spf, dkim, resolver, undecided)


def read(text: str) -> Record:
    record = parse(text.encode())
    assert record is not None
    return record


def asked(server: DnsServer) -> list[str]:
    return [question.name for question in server.questions]


REJECT = "v=DMARC1; p=reject"
QUARANTINE = "v=DMARC1; p=quarantine"
NONE = "v=DMARC1; p=none"

# --- the examples of RFC 9989 -------------------------------------------------------------------


def examples() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(suite("rfc-examples", "rfc9989-examples.yml").read_text())
    return found


async def test_walk_of_section_4_10() -> None:
    for example in examples()["walk"]:
        async with dns({}) as (server, resolver):
            verdict = await evaluate(example["domain"], None, [], resolver)
            assert asked(server) == example["queries"]
            assert verdict.result == "none"


async def test_organizational_domains_of_section_4_10_2() -> None:
    for example in examples()["org_domain"]:
        verdict = await ask(example["records"], example["start"])
        assert verdict.organizational_domain == example["org"], example


async def test_messages_of_appendix_b_4() -> None:
    for example in examples()["messages"]:
        verdict = await ask(example["records"], example["author"], example["spf"], [example["dkim"]])
        assert verdict.organizational_domain == example["org_author"], example
        assert list(verdict.aligned_by) == example["aligned"], example
        assert verdict.domain == example["policy_domain"], example
        assert verdict.result == "pass"
        for method in ("spf", "dkim"):
            if f"org_{method}" in example:
                other = await ask(example["records"], example[method])
                assert other.organizational_domain == example[f"org_{method}"], example


# --- policy discovery ---------------------------------------------------------------------------

NP = "v=DMARC1; p=none; sp=quarantine; np=reject"


@pytest.mark.parametrize(
    ("author", "records", "domain", "disposition"),
    [
        # RFC 9989 §4.10.1: the author domain's own record, by its p
        ("example.org", {"example.org": "v=DMARC1; p=reject; sp=none; np=none"}, "example.org", "reject"),
        ("a.example.org", {"a.example.org": NONE, "example.org": NP}, "a.example.org", "none"),
        # the Organizational Domain's: sp for a subdomain that exists, np for one that does not
        ("a.example.org", {"example.org": NP, "a.example.org": ["SERVFAIL", "v=spf1"]}, "example.org", "quarantine"),
        ("a.example.org", {"example.org": NP}, "example.org", "reject"),
        ("a.example.org", {"example.org": "v=DMARC1; p=none; sp=reject"}, "example.org", "reject"),
        ("a.example.org", {"example.org": QUARANTINE}, "example.org", "quarantine"),
        # the public suffix's, when the Organizational Domain has none
        ("example.org", {"org": "v=DMARC1; psd=y; p=none; np=reject"}, "org", "reject"),
        ("mail.example.co.uk", {"co.uk": "v=DMARC1; psd=y; p=none; sp=quarantine"}, "co.uk", "quarantine"),
        # ... and not when it has one, nor a record between the two
        ("example.org", {"org": "v=DMARC1; psd=y; p=reject", "example.org": NONE}, "example.org", "none"),
        ("b.a.example.org", {"org": "v=DMARC1; psd=y; p=quarantine", "a.example.org": NONE}, "org", "quarantine"),
        # the shortest name that has one, without psd
        ("b.a.example.org", {"a.example.org": NONE, "example.org": REJECT}, "example.org", "reject"),
        # psd=n ends the walk
        (
            "b.a.example.org",
            {"a.example.org": "v=DMARC1; p=none; psd=n", "example.org": REJECT},
            "a.example.org",
            "none",
        ),
        # a public suffix as author domain
        ("org", {"org": "v=DMARC1; psd=y; p=reject; sp=none"}, "org", "reject"),
        # §4.10 step 2: two records are none, and the walk goes on
        ("a.example.org", {"a.example.org": [NONE, QUARANTINE], "example.org": REJECT}, "example.org", "reject"),
        # other TXT records do not count
        ("example.org", {"example.org": ["v=spf1 -all", REJECT, "=x"]}, "example.org", "reject"),
        # §4.7, t=y: one step lower
        ("example.org", {"example.org": "v=DMARC1; p=reject; t=y"}, "example.org", "quarantine"),
        ("example.org", {"example.org": "v=DMARC1; p=quarantine; t=y"}, "example.org", "none"),
        ("a.example.org", {"example.org": "v=DMARC1; p=none; np=reject; t=y"}, "example.org", "quarantine"),
        # pct, rf, ri are gone
        ("example.org", {"example.org": "v=DMARC1; p=reject; pct=0"}, "example.org", "reject"),
        # names in any case, with a final dot, as U-labels (§5.3.1)
        ("Example.ORG.", {"example.org": REJECT}, "example.org", "reject"),
        ("bücher.example", {"xn--bcher-kva.example": REJECT}, "xn--bcher-kva.example", "reject"),
        # §4.10.1: an invalid policy is p=none, with a valid rua
        ("example.org", {"example.org": "v=DMARC1; p=x; rua=mailto:a@example.org"}, "example.org", "none"),
    ],
)
async def test_policy(author: str, records: dict[str, str | list[str]], domain: str, disposition: str) -> None:
    verdict = await ask(records, author)
    assert (verdict.result, verdict.domain, verdict.disposition) == ("fail", domain, disposition)


@pytest.mark.parametrize(
    ("author", "records"),
    [
        ("example.org", {}),
        ("example.org", {"example.net": REJECT}),
        ("example.org", {"example.org": "v=spf1 -all"}),
        ("example.org", {"example.org": [REJECT, QUARANTINE]}),
        ("example.org", {"a.example.org": REJECT}),
        # RFC 9989 §4.10.1: no valid p and no valid rua: no DMARC processing, not even by a parent
        ("example.org", {"example.org": "v=DMARC1"}),
        ("example.org", {"example.org": "v=DMARC1; p=reject; sp=x"}),
        ("a.example.org", {"a.example.org": "v=DMARC1; p=x", "example.org": REJECT}),
    ],
)
async def test_no_policy(author: str, records: dict[str, str | list[str]]) -> None:
    verdict = await ask(records, author, author, [author])
    assert (verdict.result, verdict.disposition, verdict.aligned_by) == ("none", "none", ())


@pytest.mark.parametrize(
    "author", ["", ".", "a..example.org", "a b.example.org", "a" * 64 + ".org", "[192.0.2.1]", "ex\x00.org"]
)
async def test_what_is_no_domain_is_permerror_without_a_question(author: str) -> None:
    async with dns({}) as (server, resolver):
        assert (await evaluate(author, author, [author], resolver)).result == "permerror"
        assert not server.questions


# --- the cases of authheaders, as its NOTE.md names them: np and psd ----------------------------


async def test_np_of_a_subdomain_that_does_not_exist() -> None:
    records = {"example.biz": "v=DMARC1; p=none; sp=none; np=reject"}
    assert (await ask(records, "sub.example.biz")).disposition == "reject"
    there = {"sub.example.biz": [{"A": "192.0.2.2"}]}
    assert (await ask(records, "sub.example.biz", **there)).disposition == "none"
    # RFC 8020: a name that only has something below it exists
    assert (
        await ask(records, "sub.example.biz", **{"www.sub.example.biz": [{"A": "192.0.2.2"}]})
    ).disposition == "none"


async def test_np_of_a_public_suffix() -> None:
    records = {"gov": "v=DMARC1; psd=y; p=none; np=reject"}
    assert (await ask(records, "example.gov")).disposition == "reject"
    assert (
        await ask(records, "example.gov", **{"example.gov": [{"MX": [10, "mx.example.gov"]}]})
    ).disposition == "none"


# --- alignment ----------------------------------------------------------------------------------

ORG = {"example.org": REJECT}


@pytest.mark.parametrize(
    ("author", "records", "spf", "dkim", "aligned"),
    [
        # RFC 9989 §4.4, table 1
        ("news.example.org", ORG, "foo.example.org", (), ("spf",)),
        ("news.example.org", ORG, "news.example.org", (), ("spf",)),
        ("news.example.org", ORG, "foo.example.net", (), ()),
        ("example.org", ORG, None, ("a.example.org",), ("dkim",)),
        ("a.example.org", ORG, None, ("example.org",), ("dkim",)),
        # any of several signatures (§4.4.1)
        ("example.org", ORG, None, ("example.net", "evil.example", "example.org"), ("dkim",)),
        # case and U-labels
        ("Example.Org", ORG, "EXAMPLE.ORG", ("A.Example.Org.",), ("spf", "dkim")),
        ("bücher.example", {"xn--bcher-kva.example": REJECT}, "BÜCHER.example", (), ("spf",)),
        # look-alikes
        ("example.org", ORG, "notexample.org", ("example.org.evil.example", "xample.org", "org"), ()),
        # strict
        ("example.org", {"example.org": "v=DMARC1; p=reject; adkim=s"}, "a.example.org", ("a.example.org",), ("spf",)),
        ("example.org", {"example.org": "v=DMARC1; p=reject; aspf=s"}, "a.example.org", ("a.example.org",), ("dkim",)),
        (
            "a.example.org",
            {"example.org": "v=DMARC1; p=none; adkim=s; aspf=s"},
            "a.example.org",
            ("example.org",),
            ("spf",),
        ),
        # two organizations under one name, by psd=n and by psd=y
        ("a.example.org", {**ORG, "b.example.org": "v=DMARC1; p=none; psd=n"}, "b.example.org", (), ()),
        ("a.example.org", {"example.org": "v=DMARC1; p=reject; psd=y"}, "b.example.org", ("example.org",), ()),
        (
            "b.example.org",
            {**ORG, "b.example.org": "v=DMARC1; p=none; psd=n"},
            "example.org",
            ("x.b.example.org",),
            ("dkim",),
        ),
    ],
)
async def test_alignment(
    author: str, records: dict[str, str | list[str]], spf: str | None, dkim: tuple[str, ...], aligned: tuple[str, ...]
) -> None:
    verdict = await ask(records, author, spf, dkim)
    assert verdict.aligned_by == aligned
    assert verdict.result == ("pass" if aligned else "fail")


async def test_each_name_is_asked_once_for_all_walks() -> None:
    async with dns(published({**ORG, "b.a.example.org": NONE})) as (server, resolver):
        verdict = await evaluate("b.a.example.org", "c.a.example.org", ["d.a.example.org", "c.a.example.org"], resolver)
        assert verdict.result == "pass"
        assert len(asked(server)) == len(set(asked(server)))


async def test_no_walk_begins_where_it_cannot_matter() -> None:
    """A spoofer's domains cost nothing, and his DNS has no say."""
    async with dns({**published(ORG), "evil.example": ["SERVFAIL"], "_dmarc.evil.example": ["SERVFAIL"]}) as (
        server,
        resolver,
    ):
        verdict = await evaluate("example.org", "evil.example", [f"{n}.evil.example" for n in range(20)], resolver)
        assert verdict.result == "fail"
        assert asked(server) == ["_dmarc.example.org", "_dmarc.org"]


@pytest.mark.parametrize("labels", [1, 2, 7, 8, 9, 120])
async def test_a_walk_takes_eight_queries_at_most(labels: int) -> None:
    async with dns({}) as (server, resolver):
        await evaluate(".".join("x" * labels), None, [], resolver)
        assert len(server.questions) == min(labels, 8)


# --- trouble ------------------------------------------------------------------------------------

BROKEN = "SERVFAIL"


@pytest.mark.parametrize(
    ("author", "records", "spf", "undecided", "result"),
    [
        # RFC 9989 §5.3.6: a query that is needed and does not complete: neither pass nor fail
        ("example.org", {"example.org": BROKEN}, "example.org", (), "temperror"),
        ("a.example.org", {"example.org": BROKEN}, None, (), "temperror"),
        ("a.example.org", {**ORG, "a.example.org": BROKEN}, None, (), "temperror"),
        ("example.org", {"org": BROKEN}, None, (), "temperror"),
        # one that is not needed changes nothing
        ("example.org", {**ORG, "org": BROKEN}, "example.org", (), "pass"),
        ("example.org", {**ORG, "org": BROKEN}, None, (), "fail"),
        ("example.org", {**ORG, "org": BROKEN}, "evil.example", (), "fail"),
        ("example.org", {**ORG, "org": BROKEN}, "a.example.org", (), "temperror"),
        ("example.org", {"example.org": "v=DMARC1; p=reject; aspf=s", "org": BROKEN}, "a.example.org", (), "fail"),
        # behind psd=n nobody asks
        ("example.org", {"example.org": "v=DMARC1; p=reject; psd=n", "org": BROKEN}, "a.example.org", (), "pass"),
        # an identifier that would align, and whose walk is in trouble
        ("example.org", {**ORG, "a.example.org": BROKEN}, "a.example.org", (), "temperror"),
        # an identifier whose own check was a temperror
        ("example.org", ORG, None, ("example.org",), "temperror"),
        ("example.org", ORG, None, ("a.example.org",), "temperror"),
        ("example.org", ORG, "example.org", ("a.example.org",), "pass"),
        ("example.org", ORG, None, ("evil.example", "notexample.org", ""), "fail"),
        ("example.org", {"example.org": "v=DMARC1; p=reject; adkim=s; aspf=s"}, None, ("a.example.org",), "fail"),
        ("example.org", {}, None, ("example.org",), "none"),
    ],
)
async def test_trouble(
    author: str, records: dict[str, str | list[str]], spf: str | None, undecided: tuple[str, ...], result: str
) -> None:
    assert (await ask(records, author, spf, [], undecided)).result == result


async def test_trouble_in_the_question_whether_the_author_domain_exists() -> None:
    """np or sp? It matters for a fail, not for a pass."""
    zone = {
        **published({"example.org": NP}),
        "a.example.org": ["SERVFAIL"],
        "_dmarc.a.example.org": [{"A": "192.0.2.1"}],
    }
    async with dns(zone) as (_, resolver):
        # A name below a.example.org is there, so a.example.org is (RFC 8020): nobody needs to ask.
        assert (await evaluate("a.example.org", None, [], resolver)).disposition == "quarantine"
    async with dns({**published({"example.org": NP}), "a.example.org": ["SERVFAIL"]}) as (_, resolver):
        assert (await evaluate("a.example.org", None, [], resolver)).result == "temperror"
        assert (await evaluate("a.example.org", "example.org", [], resolver)).result == "pass"


async def test_past_the_budget_is_temperror() -> None:
    async with dns(published(ORG)) as (_, resolver):
        verdict = await evaluate("example.org", None, [], resolver.budget(queries=0))
        assert verdict.result == "temperror"
        assert "budget" in verdict.problem


async def test_the_trace_tells_the_walk_and_what_was_ignored() -> None:
    verdict = await ask({"example.org": "v=DMARC1; p=reject; pct=50; t=y"}, "a.example.org", "example.org")
    told = [f"{step.what} {step.found}" for step in verdict.trace]
    assert told[0] == "_dmarc.a.example.org no such name"
    assert told[1].startswith("_dmarc.example.org v=DMARC1; p=reject; pct=50; t=y")
    assert [line for line in told if line.startswith("pct is obsolete")]
    assert [line for line in told if line.startswith("t=y reject becomes quarantine")]
    assert verdict.testing


# --- the pure parts -----------------------------------------------------------------------------

LABEL = st.sampled_from(["a", "b", "example", "org", "x-y", "_z"])
DOMAIN = st.lists(LABEL, min_size=1, max_size=20).map(".".join)


@given(DOMAIN)
def test_a_walk_goes_up_to_the_last_label(start: str) -> None:
    found = list(names(start))
    assert found[0] == start
    assert found[-1] == start.rpartition(".")[2]
    assert len(found) == min(start.count(".") + 1, 8)
    assert all(longer.endswith(f".{shorter}") for longer, shorter in pairwise(found))


@given(DOMAIN, st.data())
def test_an_organizational_domain_is_the_start_or_above_it(start: str, data: st.DataObject) -> None:
    """What `_Alignment` takes for granted when it asks nothing about a domain elsewhere."""
    records = [read(f"v=DMARC1; p=none; psd={psd}") for psd in "yun"]
    found = [Found(name, data.draw(st.sampled_from(records))) for name in names(start) if data.draw(st.booleans())]
    top = organizational_domain(start, found)
    assert start == top or start.endswith(f".{top}")
