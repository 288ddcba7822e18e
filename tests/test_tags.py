"""Tag lists: the grammar of RFC 6376 §3.2, rule by rule, and what no input may do to the parser."""

from __future__ import annotations

import pytest
from dkim.util import InvalidTagValueList, parse_tag_value
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import MalformedTags
from relay.tags import base64_value, parse_tags, words

LISTS = [
    (b"a=b", {"a": "b"}),
    (b"a=b;", {"a": "b"}),
    (b"a=b; ", {"a": "b"}),
    (b" a = b ;\tc=d e\t", {"a": "b", "c": "d e"}),
    (b"a=", {"a": ""}),
    (b"a=b=c", {"a": "b=c"}),
    (b"a=1;A=2", {"a": "1", "A": "2"}),  # names are case-sensitive
    (b"a_1=\xc3\xbc", {"a_1": "ü"}),  # RFC 8616 §5
]
NO_LISTS = [
    b"", b";", b" ", b"a", b"a=b;;", b"a=b;;c=d", b";a=b", b"=b", b"1=b", b"_a=b", b"a b=c", b"a-b=c", b"\xc3\xbc=a",
    b"a=b; a=c", b"a=\x00", b"a=b\x7fc", b"a=b\r\nc", b"a=\xff",
]  # fmt: skip


@pytest.mark.parametrize(("text", "tags"), LISTS)
def test_a_tag_list(text: bytes, tags: dict[str, str]) -> None:
    assert parse_tags(text) == tags
    assert list(parse_tags(text)) == list(tags)


@pytest.mark.parametrize("text", NO_LISTS)
def test_what_is_no_tag_list(text: bytes) -> None:
    with pytest.raises(MalformedTags):
        parse_tags(text)


def test_what_stands_between_colons() -> None:
    assert words("from : to:\tsubject") == ["from", "to", "subject"]
    assert words("") == [""]


@pytest.mark.parametrize(("text", "octets"), [("YQ==", b"a"), ("Y Q\t= =", b"a"), ("", b"")])
def test_base64(text: str, octets: bytes) -> None:
    assert base64_value(text) == octets


@pytest.mark.parametrize("text", ["YQ", "Y", "@@@@", "YQ==YQ==", "Y\nQ==", "ü"])
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        base64_value(text)


@settings(max_examples=500)
@given(st.lists(st.sampled_from([b"a", b"b", b"=", b";", b" ", b"\t", b"1", b"_", b":", b"@", b"\x01", b"\xff"])))
def test_what_we_read_dkimpy_reads_the_same(parts: list[bytes]) -> None:
    text = b"".join(parts)
    try:
        ours = {name.encode(): value.encode() for name, value in parse_tags(text).items()}
    except MalformedTags:
        return
    try:
        assert parse_tag_value(text) == ours
    except InvalidTagValueList:
        pytest.fail(f"dkimpy refuses {text!r}")


@given(st.binary(max_size=300))
def test_anything_else_is_a_typed_error(text: bytes) -> None:
    try:
        parse_tags(text)
    except MalformedTags as error:
        assert str(error)
