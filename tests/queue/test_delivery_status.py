"""The part of a report that programs read: which fields, from what, and that nothing foreign gets out of its field."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay import reply
from relay.address import Address
from relay.envelope import Notify
from relay.queue.delivery_status import delivery_status, is_ascii, printable, status
from relay.queue.entry import Action, Queued, Recipient
from tests.support.reports import blocks, queued, recipient

HOST = "mx.example.org"
FAILED, DELAYED, RELAYED = Action.FAILED, Action.DELAYED, Action.RELAYED


def fields(*recipients: Recipient, utf8: bool = False, hostname: str = HOST, **changes: object) -> list[dict[str, str]]:
    about = queued(*recipients, **changes)
    return blocks(delivery_status(about, about.recipients, hostname, utf8=utf8))


def test_about_the_mail() -> None:
    assert fields(recipient(), envid="QQ314159")[0] == {
        "Original-Envelope-Id": "QQ314159",
        "Reporting-MTA": "dns; mx.example.org",
        "Arrival-Date": "Sun, 22 Nov 2026 10:00:00 +0000",  # RFC 3464 §2.2.5: a numeric zone
    }


def test_about_a_recipient_who_failed() -> None:
    assert fields(recipient(original="rfc822;Bob@Example.net"))[1] == {
        "Original-Recipient": "rfc822; Bob@Example.net",
        "Final-Recipient": "rfc822; bob@example.net",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.example.net",
        "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
        "Last-Attempt-Date": "Sun, 22 Nov 2026 10:01:00 +0000",
        "Final-Log-ID": "0kqm0e2q5h7j4xyz",
    }


def test_fields_stand_in_the_order_of_the_grammar() -> None:
    """RFC 3464 §2.2 and §2.3 give it."""
    about = fields(recipient(action=DELAYED, original="rfc822;b@c"), envid="x")
    assert list(about[0]) == ["Original-Envelope-Id", "Reporting-MTA", "Arrival-Date"]
    assert list(about[1]) == [
        "Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code",
        "Last-Attempt-Date", "Final-Log-ID", "Will-Retry-Until",
    ]  # fmt: skip


def test_what_was_not_given_is_not_there() -> None:
    """RFC 3461 §6.3 (a), (d): MUST NOT; RFC 3464 §2.3.7: no attempt, no date of one."""
    about = fields(recipient(reply="", host="", tried=0.0))
    assert list(about[0]) == ["Reporting-MTA", "Arrival-Date"]
    assert list(about[1]) == ["Final-Recipient", "Action", "Status", "Final-Log-ID"]


def test_a_name_that_is_not_qualified_is_not_called_dns() -> None:
    """RFC 3461 §6.3 (b)."""
    assert fields(recipient(), hostname="localhost")[0]["Reporting-MTA"] == "x-local-hostname; localhost"


@pytest.mark.parametrize(
    ("envid", "text"),
    [
        ("QQ314159", "QQ314159"),
        ("a+2Bb+3Dc", "a+b=c"),  # RFC 3461 §4: xtext
        ("Some+20Words", "Some Words"),
        ("+20+20", ""),  # what only white space says nobody can read
        ("no+2xtext", "no+2xtext"),
    ],
)
def test_envid_is_decoded(envid: str, text: str) -> None:
    """RFC 3461 §6.3 (a)."""
    assert fields(recipient(), envid=envid)[0]["Original-Envelope-Id"].strip() == text


@pytest.mark.parametrize(
    ("action", "reply", "code"),
    [
        (FAILED, "550 5.1.1 no such user", "5.1.1"),
        (FAILED, "550 5.1.1", "5.1.1"),
        (FAILED, "552 too large", "5.0.0"),  # RFC 3461 §6.3 (g)
        (FAILED, "550 5.0.0 no", "5.0.0"),
        (FAILED, "550 5.01.001 no", "5.1.1"),  # RFC 3464 §2.3.4: no leading zeros
        (FAILED, "550 4.1.1 which is it", "5.0.0"),
        (FAILED, "550 5.1.1x no", "5.0.0"),
        (FAILED, "550 5.1000.1 no", "5.0.0"),
        (FAILED, "451 4.2.1 busy", "4.4.7"),  # RFC 3463 §3.5: delivery time expired
        (FAILED, "", "4.4.7"),
        (FAILED, "garbage", "4.4.7"),
        (DELAYED, "450 4.2.1 busy", "4.2.1"),
        (DELAYED, "450 busy", "4.0.0"),
        (DELAYED, "550 5.1.1 released by an operator since", "4.0.0"),
        (DELAYED, "", "4.0.0"),
        (RELAYED, "250 2.1.5 OK", "2.1.5"),
        (RELAYED, "250 OK", "2.0.0"),
        (RELAYED, "", "2.0.0"),
    ],
)
def test_status(action: Action, reply: str, code: str) -> None:
    assert status(recipient(action=action, reply=reply)) == code
    assert fields(recipient(action=action, reply=reply))[1]["Status"] == code


@pytest.mark.parametrize("action", Action)
def test_until_when_is_told_of_delays_only(action: Action) -> None:
    """RFC 3464 §2.3.9: MUST NOT appear in others."""
    about = fields(recipient(action=action))[1]
    assert about["Action"] == action
    assert about.get("Will-Retry-Until") == ("Fri, 27 Nov 2026 10:00:00 +0000" if action is DELAYED else None)


OURS = [reply.HOP_UNREACHABLE, reply.HOP_TIMEOUT, reply.HOP_TLS, reply.HOP_TROUBLE, reply.UTF8_HOP, reply.TOO_BIG_HOP]


@pytest.mark.parametrize("ours", OURS, ids=str)
def test_what_we_say_ourselves_is_not_put_in_the_mouth_of_the_host(ours: reply.Reply) -> None:
    """RFC 3464 §2.3.6: the absence of Remote-MTA says that the code is the reporting MTA's."""
    about = fields(recipient(reply=str(ours)))[1]
    assert "Remote-MTA" not in about
    assert about["Diagnostic-Code"] == f"smtp; {ours}"


@pytest.mark.parametrize(
    ("host", "name"),
    [("mx.example.net", "mx.example.net"), ("192.0.2.1", "[192.0.2.1]"), ("2001:db8::1", "[IPv6:2001:db8::1]")],
)
def test_a_host_is_a_domain_or_a_literal(host: str, name: str) -> None:
    """RFC 3461 §9.3."""
    assert fields(recipient(host=host))[1]["Remote-MTA"] == f"dns; {name}"


@pytest.mark.parametrize(
    ("original", "seven_bits", "utf8"),
    [
        ("rfc822;Bob@Example.net", "rfc822; Bob@Example.net", "rfc822; Bob@Example.net"),
        ("rfc822;bob+2Bx@example.net", "rfc822; bob+x@example.net", "rfc822; bob+x@example.net"),
        ("x400;/G=Bob/", "x400; /G=Bob/", "x400; /G=Bob/"),
        (r"utf-8;b\x{FC}ro@example.net", r"utf-8; b\x{FC}ro@example.net", "utf-8; büro@example.net"),
        (r"UTF-8;\x{1F600}@example.net", r"UTF-8; \x{1F600}@example.net", "UTF-8; \U0001f600@example.net"),
        # What is no address when decoded stays as it is (RFC 6533 §3): a line end, a surrogate, no such character.
        (r"utf-8;a\x{0D}\x{0A}Status:\x{20}2.0.0@b.c", *[r"utf-8; a\x{0D}\x{0A}Status:\x{20}2.0.0@b.c"] * 2),
        (r"utf-8;\x{D800}@b.c", *[r"utf-8; \x{D800}@b.c"] * 2),
        (r"utf-8;\x{FFFFFF}@b.c", *[r"utf-8; \x{FFFFFF}@b.c"] * 2),
        (r"utf-8;\x{202E}@b.c", *[r"utf-8; \x{202E}@b.c"] * 2),
        (r"utf-8;no\x{FC}address", *[r"utf-8; no\x{FC}address"] * 2),
    ],
)
def test_the_original_recipient(original: str, seven_bits: str, utf8: str) -> None:
    assert fields(recipient(original=original))[1]["Original-Recipient"] == seven_bits
    assert fields(recipient(original=original), utf8=True)[1]["Original-Recipient"] == utf8


@pytest.mark.parametrize(
    ("address", "seven_bits", "utf8"),
    [
        ("bob@example.net", "rfc822; bob@example.net", "rfc822; bob@example.net"),
        ("Bob@Example.NET", "rfc822; Bob@Example.NET", "rfc822; Bob@Example.NET"),  # RFC 3464 §2.3.2: the case stays
        ('"b o b"@example.net', 'rfc822; "b o b"@example.net', 'rfc822; "b o b"@example.net'),
        ("büro@example.net", r"utf-8; b\x{FC}ro@example.net", "utf-8; büro@example.net"),
        ("b@bücher.example", r"utf-8; b@b\x{FC}cher.example", "utf-8; b@bücher.example"),
        # RFC 6533 §3: HEXPOINT has two digits at least; SP, "\", "+" and "=" are encoded too.
        ("\U0001f600+=@example.net", r"utf-8; \x{1F600}\x{2B}\x{3D}@example.net", "utf-8; \U0001f600+=@example.net"),
        (r'"ü\" b"@example.net', r'utf-8; "\x{FC}\x{5C}"\x{20}b"@example.net', r'utf-8; "ü\" b"@example.net'),
    ],
)
def test_the_final_recipient(address: str, seven_bits: str, utf8: str) -> None:
    assert fields(recipient(address))[1]["Final-Recipient"] == seven_bits
    assert fields(recipient(address), utf8=True)[1]["Final-Recipient"] == utf8


def test_what_cannot_be_said_in_ascii_is_seen() -> None:
    assert is_ascii([recipient(), recipient("carol@example.net", original="rfc822;carol@example.net")])
    assert not is_ascii([recipient(), recipient("büro@example.net")])
    assert not is_ascii([recipient(original=r"utf-8;b\x{FC}ro@example.net")])


# --- injection -----------------------------------------------------------------------------------

NASTY = st.text(st.sampled_from("a1 ;:<>@().\\{}x\t\r\n\0\x0b\x0c\x1b\x85\u2028\u202e\ufeffü€\U0001f600\ud800+=\"'?"))
LINES = st.sampled_from(
    ["\r\nAction: delivered", "\r\n\r\nFinal-Recipient: rfc822; eve@example.net", "\n\tx", "\r--=_"]
)
FOREIGN = st.lists(NASTY | LINES | st.text(max_size=40), max_size=6).map("".join)
_MESSAGE_FIELDS = {"Original-Envelope-Id", "Reporting-MTA", "Arrival-Date"}
_RECIPIENT_FIELDS = {
    "Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code",
    "Last-Attempt-Date", "Final-Log-ID", "Will-Retry-Until",
}  # fmt: skip


@settings(deadline=None)
@given(FOREIGN, FOREIGN, FOREIGN, FOREIGN, FOREIGN, FOREIGN, st.booleans(), st.sampled_from(Action))
@example("550 \r\n\r\nAction: delivered", "", "", "", "", "", False, FAILED)
@example("550 " + "x" * 5000, "y" * 5000, "z" * 5000, "u" * 5000, "v" * 5000, "w" * 5000, True, FAILED)
@example("550 " + "ü" * 5000, "", "", "", "", "", True, FAILED)
@example("550 a" + " " * 200 + "b", "", "", "", "", "", True, FAILED)
def test_no_foreign_text_leaves_its_field(
    said: str, host: str, envid: str, original: str, local: str, domain: str, utf8: bool, action: Action
) -> None:
    one = recipient(action=action, reply=said, host=host, original=original)
    hostile = Recipient(
        Address(local, domain), "next", one.state, reply=said, host=host, expires=one.expires,
        notify=Notify("", original), action=one.action,
    )  # fmt: skip
    about: Queued = queued(one, envid=envid)
    octets = delivery_status(about, [hostile, one], HOST, utf8=utf8)
    lines = octets.split(b"\r\n")
    assert octets.count(b"\r") == octets.count(b"\n") == len(lines) - 1
    assert max(map(len, lines)) <= 998
    assert utf8 or octets.isascii(), "RFC 3464 §2.1: 7bit MUST be used"
    assert not re.search(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]", octets)
    octets.decode()
    read = blocks(octets)
    assert len(read) == 3
    assert set(read[0]) <= _MESSAGE_FIELDS
    assert set(read[1]) <= _RECIPIENT_FIELDS
    assert [block["Action"] for block in read[1:]] == [action, action]
    assert read[0]["Arrival-Date"] == "Sun, 22 Nov 2026 10:00:00 +0000"


@settings(deadline=None)
@given(st.from_regex(r"[!-<>-~]([ !-<>-~]{0,300}[!-<>-~])?", fullmatch=True))
@example("550 5.1.1 " + "a long answer " * 30 + "end")
@example("a  b   c" + " " * 90 + "d")
def test_unfolded_a_value_is_what_it_was(text: str) -> None:
    """RFC 3464 §2.2.1 for one: exact spelling. Without `=`, for `email` would decode encoded words."""
    read = fields(recipient(reply=text), envid=text.replace("+", "+2B").replace("=", "+3D").replace(" ", "+20"))
    assert read[0]["Original-Envelope-Id"] == text
    assert read[1]["Diagnostic-Code"] == f"smtp; {text}"


@settings(deadline=None)
@given(st.text())
def test_printable_is_one_line_for_every_reader(text: str) -> None:
    assert printable(text, utf8=True).splitlines() in ([], [printable(text, utf8=True)])
    assert printable(text, utf8=False).isascii()


def test_many_recipients_are_many_blocks() -> None:
    about = [recipient(f"u{number}@example.net") for number in range(1000)]
    read = fields(*about)
    assert [block["Final-Recipient"] for block in read[1:]] == [
        f"rfc822; u{number}@example.net" for number in range(1000)
    ]
