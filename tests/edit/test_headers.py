"""What the header loses and gains, in whole fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.edit.headers import MAX_LINE, clean, complete, folded
from relay.message import Message

REST = b"Received: from a by b; c\r\nFrom: ann@example.org\r\nTo: bob@example.com\r\n"


def test_five_hundred_forged_results_go_and_every_other_octet_stays() -> None:
    forged = b'authentication-RESULTS : (x) "MX.example"\r\n\t1; spf=pass\r\n' * 500
    others = (
        b"Authentication-Results: other.example; spf=pass\r\nARC-Authentication-Results: i=1; mx.example; spf=pass\r\n"
    )
    body = b"Authentication-Results: mx.example; spf=pass\r\n"
    content = forged + others + REST + forged[:-2] + b"\r\n\r\n" + body
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relay.message.MAX_FIELDS", 2000)
        message = Message.parse(content)
    assert bytes(clean(message, "mx.example")) == others + REST + b"\r\n" + body


def test_return_path_is_written_at_final_delivery_only() -> None:
    # RFC 5321 §4.4
    content = b"Return-Path: <eve@example.net>\r\nRETURN-PATH : <>\r\n" + REST + b"\r\n"
    assert bytes(clean(Message.parse(content), "mx.example")) == REST + b"\r\n"


def test_a_clean_message_is_not_touched() -> None:
    message = Message.parse(REST + b"\r\nbody\r\n")
    assert clean(message, "mx.example") is message


def test_date_and_message_id_are_added_below_where_they_are_missing() -> None:
    message = complete(Message.parse(REST + b"\r\nbody\r\n"), "relay.example", 1_795_262_400.9, "0abc")
    assert bytes(message) == (
        REST + b"Date: Sat, 21 Nov 2026 12:00:00 +0000\r\nMessage-ID: <0abc@relay.example>\r\n\r\nbody\r\n"
    )


@pytest.mark.parametrize(
    ("there", "added"),
    [
        (b"Date: whatever\r\n", [b"message-id"]),
        (b"DATE :\r\n", [b"message-id"]),
        (b"message-id: not one\r\n", [b"date"]),
        (b"Date: a\r\nMessage-ID: <b@c>\r\n", []),
        (b"Resent-Date: a\r\nX-Message-ID: b\r\n", [b"date", b"message-id"]),
    ],
)
def test_what_is_there_is_never_touched(there: bytes, added: list[bytes]) -> None:
    message = Message.parse(REST + there + b"\r\nbody\r\n")
    completed = complete(message, "relay.example", 0, "0abc")
    assert completed.fields[: len(message.fields)] == message.fields
    assert [field.name for field in completed.fields[len(message.fields) :]] == added


@given(st.lists(st.text(alphabet="abé;", min_size=1, max_size=90), min_size=1, max_size=12))
def test_a_folded_field_is_one_field_of_the_same_units(units: list[str]) -> None:
    raw = folded("X-Name", *units)
    [field] = Message.parse(raw + b"\r\n").fields
    assert field.value.split() == [unit.encode() for unit in units]
    for line in raw[:-2].split(b"\r\n"):
        assert len(line) <= MAX_LINE or len(line.split()) <= 2, "a line breaks unless it is one long unit"
