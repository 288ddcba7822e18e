"""DMARC records, by the grammar of RFC 9989 §4.8: what is one, and what a fault in it costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.authenticate.dmarc_record import MAX_RECORD, OBSOLETE, parse
from relay.verdict import Disposition


@pytest.mark.parametrize(
    "text",
    [
        b"v=DMARC1",
        b"v=DMARC1;",
        b"v=DMARC1; p=none",
        b"V=DMARC1; p=none",  # RFC 9989 §4.8: only the value is case-sensitive
        b"v = DMARC1 ; p = none",  # equals = *WSP "=" *WSP
        b"v\t=\tDMARC1\t;p=none",
        b"v=DMARC1;p=none;",
        b"v=DMARC1; p=none; x-unknown=1",
        b"v=DMARC1; \xff=\xfe",
    ],
)
def test_is_a_record(text: bytes) -> None:
    assert parse(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"p=none",
        b"p=none; v=DMARC1",  # v must be the first
        b"v=dmarc1; p=none",  # case-sensitive
        b"v=DMARC2; p=none",
        b"v=DMARC10; p=none",
        b"v=DMARC1 p=none",  # no separator: the value is not DMARC1
        b"v=DMARC1p=none",
        b" v=DMARC1; p=none",  # §4.8: nothing stands before the version
        b"v=spf1 -all",
        b"v=DKIM1; p=abc",
        b"v=DMARC1;" + b" " * MAX_RECORD,
    ],
)
def test_is_no_record(text: bytes) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("tags", "usable", "p", "sp", "np"),
    [
        (b"p=reject", True, "reject", "reject", "reject"),
        (b"p=Reject", True, "reject", "reject", "reject"),  # RFC 5234 §2.3
        (b"p=reject; sp=none", True, "reject", "none", "none"),
        (b"p=none; sp=quarantine; np=reject", True, "none", "quarantine", "reject"),
        (b"p=none; np=reject", True, "none", "none", "reject"),
        (b"p=reject; pct=0; rf=afrf; ri=86400", True, "reject", "reject", "reject"),
        (b"p=reject; p=reject", True, "reject", "reject", "reject"),
        # §4.10.1: without a valid p, or with an invalid sp or np, it is p=none if rua is valid, else nothing
        (b"", False, "none", "none", "none"),
        (b"p=rejct", False, "none", "none", "none"),
        (b"p=reject; p=none", False, "none", "none", "none"),
        (b"p=reject; sp=all", False, "none", "none", "none"),
        (b"p=reject; np=", False, "none", "none", "none"),
        (b"rua=mailto:a@example.org", True, "none", "none", "none"),
        (b"p=rejct; rua=mailto:a@example.org!10m", True, "none", "none", "none"),
        (b"p=reject; sp=all; rua=nonsense, https://example.org/report", True, "none", "none", "none"),
        (b"p=reject; sp=all; rua=nonsense", False, "none", "none", "none"),
    ],
)
def test_policies(tags: bytes, usable: bool, p: str, sp: str, np: str) -> None:
    record = parse(b"v=DMARC1; " + tags)
    assert record is not None
    assert record.usable is usable
    found = record.policy("p"), record.policy("sp", "p"), record.policy("np", "sp", "p")
    assert found == (Disposition(p), Disposition(sp), Disposition(np))


@pytest.mark.parametrize(
    ("tags", "psd", "testing", "adkim", "aspf"),
    [
        (b"", "u", False, False, False),
        (b"; psd=y; t=y; adkim=s; aspf=s", "y", True, True, True),
        (b"; PSD=N; T=N; ADKIM=R; aspf=r", "n", False, False, False),
        (b"; psd=yes; t=true; adkim=strict; aspf=x", "u", False, False, False),  # §4.8: the default instead
        (b"; psd=y; psd=n; t=y; adkim=s", "u", True, True, False),
        (b"; t=y\x00; adkim=s\xff", "u", False, False, False),
    ],
)
def test_flags(tags: bytes, psd: str, testing: bool, adkim: bool, aspf: bool) -> None:
    record = parse(b"v=DMARC1; p=none" + tags)
    assert record is not None
    assert (record.psd, record.testing, record.strict("dkim"), record.strict("spf")) == (psd, testing, adkim, aspf)


@pytest.mark.parametrize("tag", OBSOLETE)
def test_what_is_obsolete_is_told(tag: str) -> None:
    record = parse(f"v=DMARC1; p=none; {tag}=50".encode())
    assert record is not None
    assert tag not in record.tags
    assert [problem for problem in record.problems if problem.startswith(f"{tag} is obsolete")]


def test_sizes_behind_report_addresses_are_ignored() -> None:
    record = parse(b"v=DMARC1; p=none; rua=mailto:a@example.org!50m , mailto:b@example.org,c,https:!1")  # §4.8
    assert record is not None
    assert record.report_uris == ("mailto:a@example.org", "mailto:b@example.org")


TAG = st.one_of(
    st.binary(max_size=12),
    st.tuples(
        st.sampled_from(["p", "sp", "np", "psd", "t", "adkim", "aspf", "rua", "fo", "pct", "v", "q"]),
        st.sampled_from(["none", "reject", "y", "n", "s", "r", "", "x", "mailto:a@b.example", "DMARC1"]),
        st.sampled_from(["", " ", "\t"]),
    ).map(lambda tag: f"{tag[0]}{tag[2]}={tag[2]}{tag[1]}".encode()),
)


@given(st.lists(TAG, max_size=10).map(b";".join), st.sampled_from([b"v=DMARC1;", b"v = DMARC1 ; ", b""]))
def test_any_octets_are_a_record_or_none(tags: bytes, version: bytes) -> None:
    record = parse(version + tags)
    if record is None:
        assert not version
        return
    assert record.text.isascii()
    assert record.text.isprintable()
    assert record.policy("p") in Disposition
    assert record.psd in "ynu"
    if record.policy("p") is not Disposition.NONE:
        assert record.sound
        assert record.tags["p"].lower() == record.policy("p")


@given(st.permutations([b"p=reject", b"sp=quarantine", b"np=none", b"t=y", b"psd=n", b"aspf=s"]))
def test_the_order_of_tags_means_nothing(tags: list[bytes]) -> None:
    record = parse(b"v=DMARC1;" + b";".join(tags))
    assert record is not None
    assert dict(record.tags) == {"p": "reject", "sp": "quarantine", "np": "none", "t": "y", "psd": "n", "aspf": "s"}
