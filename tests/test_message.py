"""A message as bytes: what was parsed goes out as it came in, and nothing prepended swallows a line."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import MalformedMessage
from relay.message import MAX_FIELDS, MAX_HEADER, Message

NAME = st.text(alphabet="abcXYZ-09!~", min_size=1, max_size=12).map(str.encode)
VALUE = st.lists(st.sampled_from([b" a", b"\r\n b", b"\r\n\tc", b":", b"\xc3\xa9", b"\x00", b""]), max_size=6).map(
    b"".join
)
FIELDS = st.lists(st.tuples(NAME, st.sampled_from([b"", b" ", b"\t "]), VALUE), max_size=8)
BODY = st.lists(st.sampled_from([b"text", b"\r\n", b" ", b"A: b\r\n", b".", b"\xff"]), max_size=10).map(b"".join)


@given(FIELDS.filter(bool), BODY)
def test_what_is_parsed_goes_out_as_it_came_in(fields: list[tuple[bytes, bytes, bytes]], body: bytes) -> None:
    raw = [name + space + b":" + value + b"\r\n" for name, space, value in fields]
    content = b"".join(raw) + b"\r\n" + body
    message = Message.parse(content)
    assert [field.raw for field in message.fields] == raw
    assert [field.name for field in message.fields] == [name.lower() for name, _, _ in fields]
    assert [field.value for field in message.fields] == [value for _, _, value in fields]
    assert bytes(message.body) == body
    assert bytes(message) == content
    assert message.size == len(content)


@given(FIELDS.filter(bool), BODY, st.sampled_from([b"X: y\r\n", b"X:\r\n y\r\n"]))
def test_a_field_on_top_is_a_field_of_its_own(
    fields: list[tuple[bytes, bytes, bytes]], body: bytes, added: bytes
) -> None:
    content = b"".join(name + space + b":" + value + b"\r\n" for name, space, value in fields) + b"\r\n" + body
    message = Message.parse(content)
    prepended = message.prepend(added)
    assert bytes(prepended) == added + content
    assert Message.parse(bytes(prepended)) == prepended
    appended = message.append(added)
    assert Message.parse(bytes(appended)) == appended
    assert appended.fields[-1].raw == added


@given(st.lists(st.sampled_from([b"A: b", b"\r\n", b" ", b"\t", b":", b"x", b"\x00", b"\xff", b"From "]), max_size=16))
def test_any_octets_are_a_message_or_malformed(pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    try:
        message = Message.parse(content)
    except MalformedMessage:
        return
    assert bytes(message) in (content, b"\r\n" + content)  # without a header, the blank line is put before the body
    grown = Message.parse(bytes(message.prepend(b"X: y\r\n")))
    assert grown.fields[0].raw == b"X: y\r\n"
    assert grown.fields[1:] == message.fields


@pytest.mark.parametrize(
    "content",
    [
        # the line would become part of a field put on top (RFC 5322 §2.2.3)
        b" a\r\n\r\nbody\r\n",
        b"\tFrom: eve@example.net\r\nFrom: ann@example.org\r\n\r\n",
        # RFC 5322 §2.2: between fields there are only fields
        b"From: ann@example.org\r\nno field\r\nTo: b@c\r\n\r\n",
        b"From: ann@example.org\r\nTo\r\n\r\n",
        b"From: ann@example.org\r\n: nothing\r\n\r\n",
        b"From: ann@example.org\r\nTo bob: b@c\r\n\r\n",
        b"From: ann@example.org\r\nT\xc3\xb6: b@c\r\n\r\n",
        b"From: ann@example.org\r\n\x00To: b@c\r\n\r\n",
        b"From: ann@example.org\r\nTo: no line end",
        # too much of it
        b"A: b\r\n" * (MAX_FIELDS + 1) + b"\r\n",
        b"A: " + b"b" * MAX_HEADER + b"\r\n\r\n",
        b"A: b\r\n" + b" c\r\n" * (MAX_HEADER // 4) + b"\r\n",
        b"A: b\r\nB: c\nd\r\n\r\n",
    ],
)
def test_not_a_message(content: bytes) -> None:
    with pytest.raises(MalformedMessage):
        Message.parse(content)


def test_millions_of_folds_take_no_memory() -> None:
    content = bytearray(b"A: b\r\n" + b" \r\n" * 2_000_000)
    tracemalloc.start()
    with pytest.raises(MalformedMessage, match="more than"):
        Message.parse(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * 1024**2


@pytest.mark.parametrize(
    ("content", "names", "body"),
    [
        (b"A: b\r\n\r\nbody\r\n", [b"a"], b"body\r\n"),
        (b"A: b\r\n\r\n", [b"a"], b""),
        (b"A: b\r\n", [b"a"], b""),
        (b"\r\nA: b\r\n", [], b"A: b\r\n"),
        (b"no field\r\nA: b\r\n", [], b"no field\r\nA: b\r\n"),
        (b"", [], b""),
        # a line of white space continues the field, it does not end the header
        (b"A: b\r\n \r\nC: d\r\n\r\n", [b"a", b"c"], b""),
    ],
)
def test_where_the_body_begins(content: bytes, names: list[bytes], body: bytes) -> None:
    message = Message.parse(content)
    assert ([field.name for field in message.fields], bytes(message.body)) == (names, body)


def test_the_body_is_a_view_and_not_a_copy() -> None:
    content = bytearray(b"A: b\r\n\r\nbody\r\n")
    message = Message.parse(content).prepend(b"X: y\r\n").without(lambda field: field.name == b"a")
    content[-6:-2] = b"BODY"
    assert bytes(message) == b"X: y\r\n\r\nBODY\r\n"


@pytest.mark.parametrize(
    "raw", [b"", b"X: y", b"X: y\n", b"X y\r\n", b" X: y\r\n", b"X: y\r\nZ: a\r\n", b"X: y\r\n\r\n", b"X: y\rz\r\n"]
)
def test_only_a_whole_field_is_added(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a header field"):
        Message.parse(b"A: b\r\n\r\n").prepend(raw)


def test_without_removes_nothing_it_is_the_same_message() -> None:
    message = Message.parse(b"A: b\r\n\r\nbody\r\n")
    assert message.without(lambda field: field.name == b"x") is message
