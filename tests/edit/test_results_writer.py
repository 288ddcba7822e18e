"""Our own Authentication-Results: read back by others, and proof against what strangers put into it."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import authres
import authres.arc
import authres.dmarc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.authenticate.results_parser import Results, parse_results
from relay.edit.results import MAX_FIELD, claims, encode, results_field
from relay.message import Message
from relay.verdict import (
    ArcResult,
    ArcVerdict,
    Disposition,
    DmarcResult,
    DmarcVerdict,
    IprevResult,
    IprevVerdict,
    SpfResult,
    SpfVerdict,
    Verdicts,
)
from tests.support.verdicts import PLAIN, signed, verdicts

FULL = Verdicts(
    spf=SpfVerdict(SpfResult.SOFTFAIL, "example.net"),
    helo=SpfVerdict(SpfResult.PASS, "mail.example.net", "helo"),
    dkim=(signed("example.org"), replace(signed("list.example", "fail"), problem="the body was changed")),
    arc=ArcVerdict(ArcResult.PASS, ("list.example",), 0),
    dmarc=DmarcVerdict(
        DmarcResult.PASS, "example.org", "example.org", "example.org", Disposition.REJECT, aligned_by=("dkim",)
    ),
    iprev=IprevVerdict(IprevResult.PASS, ip_address("2001:db8::25"), "mail.example.net"),
)
CONTEXT = authres.FeatureContext(authres.arc, authres.dmarc)


def read(raw: bytes) -> Results:
    """The one field that `raw` must be."""
    [field] = Message.parse(raw + b"\r\n").fields
    assert field.name == b"authentication-results"
    found = parse_results(field.value)
    assert found is not None
    return found


def test_all_of_it() -> None:
    found = read(results_field(FULL, "mx.example.org", mail_from="ann@example.net"))
    assert found.authserv_id == "mx.example.org"
    told = [
        (one.method, one.result, {f"{at}.{name}": value for at, name, value in one.properties}) for one in found.results
    ]
    assert told == [
        ("dmarc", "pass", {"header.from": "example.org", "policy.dmarc": "reject"}),  # RFC 9989 §9.1
        ("spf", "softfail", {"smtp.mailfrom": "ann@example.net"}),
        ("spf", "pass", {"smtp.helo": "mail.example.net"}),
        ("iprev", "pass", {"policy.iprev": "2001:db8::25"}),
        ("arc", "pass", {"header.oldest-pass": "0", "smtp.remote-ip": "2001:db8::25"}),  # RFC 8617 §10.1
        ("dkim", "pass", _signature("example.org")),
        ("dkim", "fail", _signature("list.example")),
    ]
    assert found.results[-1].reason == "the body was changed"


def _signature(domain: str) -> dict[str, str]:
    values = {"d": domain, "i": f"@{domain}", "s": "sel", "a": "rsa-sha256", "b": "Qgi/FoC0"}
    return {f"header.{tag}": value for tag, value in values.items()}


def test_authres_reads_it_back() -> None:
    raw = results_field(FULL, "mx.example.org", mail_from="ann@example.net", override="trusted forwarder")
    header = CONTEXT.parse(raw.decode())
    assert header.authserv_id == "mx.example.org"
    dmarc, spf, helo, iprev, arc, dkim, _ = header.results
    assert (dmarc.result, dmarc.header_from, dmarc.reason) == ("pass", "example.org", "trusted forwarder")
    assert (spf.result, spf.smtp_mailfrom) == ("softfail", "ann@example.net")
    assert (helo.result, helo.smtp_helo) == ("pass", "mail.example.net")
    assert (iprev.result, iprev.policy_iprev) == ("pass", "2001:db8::25")
    assert (arc.result, arc.header_oldest_pass) == ("pass", "0")
    assert (dkim.result, dkim.header_d, dkim.header_i, dkim.header_s, dkim.header_a) == (
        "pass", "example.org", "@example.org", "sel", "rsa-sha256",
    )  # fmt: skip


def test_nothing_was_checked() -> None:
    assert results_field(None, "mx.example.org") == b"Authentication-Results: mx.example.org; none\r\n"  # RFC 8601 §2.2
    assert CONTEXT.parse(results_field(None, "mx.example.org").decode()).results == []


def test_a_null_reverse_path_has_no_mailfrom() -> None:
    """What was checked is the name of HELO, so nothing else is told (RFC 7208 §2.4)."""
    helo = replace(PLAIN.helo, result=SpfResult.PASS)
    found = read(results_field(replace(PLAIN, spf=helo, helo=helo), "mx.example.org"))
    assert [one.properties for one in found.results if one.method == "spf"] == [
        (("smtp", "helo", "client.example.org"),)
    ]


def test_our_field_is_found_again_as_ours() -> None:
    [field] = Message.parse(results_field(FULL, "mx.example.org") + b"\r\n").fields
    assert claims(field, "mx.example.org")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("example.org", "example.org"),
        ("ann@example.org", "ann@example.org"),
        ("@example.org", "@example.org"),
        ("2001:db8::1", '"2001:db8::1"'),
        ("[192.0.2.1]", '"[192.0.2.1]"'),
        ("x; dmarc=pass", '"x; dmarc=pass"'),
        ('"a b"@example.org', r'"\"a b\"@example.org"'),
        ("back\\slash", r'"back\\slash"'),
        ("bücher.example", "xn--bcher-kva.example"),
        ("(comment)", '"(comment)"'),
        # reliability: I2
        ("a\r\nX-Injected: yes", "invalid"),
        ("a\nb", "invalid"),
        ("nul\x00", "invalid"),
        ("=?us-ascii?q?x?=", "invalid"),
        ("x" * 256, "invalid"),
        ("", "invalid"),
        ("a\u2028b", "invalid"),
    ],
)
def test_foreign_values(value: str, written: str) -> None:
    assert encode(value) == written


def test_a_local_part_beyond_ascii_stays_out() -> None:
    raw = results_field(PLAIN, "mx.example.org", mail_from="jürgen@bücher.example")
    assert read(raw).results[1].get("smtp", "mailfrom") == "xn--bcher-kva.example"


def test_a_thousand_signatures_make_no_long_field() -> None:
    many = [replace(signed('"' * 250), selector='"' * 250, algorithm="\\" * 250, problem='"' * 999)] * 1000
    raw = results_field(verdicts(dkim=many), "mx.example.org", mail_from='"' * 255)
    assert len(raw) < MAX_FIELD + 100
    assert max(map(len, raw.split(b"\r\n"))) < 998  # RFC 5322 §2.1.1
    read(raw)


EVIL = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            [
                ";",
                "=",
                '"',
                "\\",
                "(",
                ")",
                "\r\n",
                "\r\n ",
                "\n",
                " ",
                "dmarc=pass",
                "header.from=bank.example",
                "=?",
                "?=",
                "\x00",
                "a",
                ".",
                "@",
                "mx.example.org",
                "spf",
            ]
        ),
        max_size=12,
    ).map("".join),
)


@given(st.lists(EVIL, min_size=14, max_size=14), EVIL)
def test_no_value_makes_a_method_a_property_or_a_line(values: list[str], mail_from: str) -> None:
    given_values = iter(values)

    def evil() -> str:
        return next(given_values)

    found = Verdicts(
        spf=SpfVerdict(SpfResult.FAIL, evil(), problem=evil()),
        helo=SpfVerdict(SpfResult.FAIL, evil(), "helo", problem=evil()),
        dkim=(
            replace(
                signed(evil(), "fail"),
                selector=evil(),
                identity=evil(),
                algorithm=evil(),
                signature=evil(),
                problem=evil(),
            ),
        ),
        arc=ArcVerdict(ArcResult.FAIL, (evil(),), problem=evil()),
        dmarc=DmarcVerdict(DmarcResult.FAIL, evil(), "example.org", problem=evil()),
        iprev=IprevVerdict(IprevResult.FAIL, ip_address("192.0.2.1"), "x", problem="y"),
    )
    raw = results_field(found, "mx.example.org", mail_from=mail_from)
    back = read(raw)
    assert [(one.method, one.result) for one in back.results] == [
        ("dmarc", "fail"), ("spf", "fail"), ("spf", "fail"), ("iprev", "fail"), ("arc", "fail"), ("dkim", "fail"),
    ]  # fmt: skip
    allowed = {
        "header.from",
        "policy.dmarc",
        "smtp.mailfrom",
        "smtp.helo",
        "policy.iprev",
        "smtp.remote-ip",
        "header.d",
        "header.i",
        "header.s",
        "header.a",
        "header.b",
    }
    for one in back.results:
        told = [f"{kind}.{name}" for kind, name, _ in one.properties]
        assert set(told) <= allowed
        assert len(told) == len(set(told))
    assert not re.search(rb"\r\n[^\t]", raw[:-2])
    assert raw.isascii()
    # ... and in the eyes of another
    other: Any = CONTEXT.parse(raw.decode())
    assert [one.method for one in other.results] == [one.method for one in back.results]
    assert {one.result for one in other.results} == {"fail"}
