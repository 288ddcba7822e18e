"""The report as its sender's mail program reads it, which here is Python's own `email`."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from email.headerregistry import Address as MailAddress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.address import Address
from relay.author import parse_author
from relay.capabilities import Capabilities
from relay.config.queue import Bounce
from relay.envelope import Notify
from relay.message import Message
from relay.queue import bounce
from relay.queue.entry import Action, Queued, Recipient
from tests.support.reports import ARRIVED, MAIL, Read, address, queued, read, recipient

HOST, ID = "mx.example.org", "0kqm0e2q5h7j4abc"
FAILED, DELAYED, RELAYED = Action.FAILED, Action.DELAYED, Action.RELAYED
SEVEN, EIGHT, UTF8 = Capabilities(), Capabilities(eight_bit=True), Capabilities(eight_bit=True, smtputf8=True)
ASKED = {FAILED: "FAILURE", DELAYED: "DELAY", RELAYED: "SUCCESS"}


def built(about: Queued, mail: bytes | None = MAIL, takes: Capabilities = UTF8, **config: object) -> bytes:
    message = None if mail is None else Message.parse(mail)
    told = bounce.told(about)
    return bytes(bounce.build(about, told, message, ID, ARRIVED + 70, HOST, Bounce.model_validate(config), takes))


def report(*recipients: Recipient, mail: bytes | None = MAIL, takes: Capabilities = UTF8, **changes: object) -> Read:
    config = {"max_size": f"{changes.pop('max_size')} B"} if "max_size" in changes else {}
    about = queued(*(recipients or [recipient()]), size=len(mail or MAIL), **changes)
    return read(built(about, mail, takes, **config))


# --- the header ----------------------------------------------------------------------------------


def test_the_header() -> None:
    header = report().header
    assert {name: str(value) for name, value in header.items()} == {
        "From": "Mail delivery <postmaster@mx.example.org>",  # RFC 3464 §2: whoever runs the relay
        "To": "ann@example.org",  # RFC 3464 §2: the reverse-path, in header and envelope
        "Subject": "Your mail could not be delivered",
        "Date": "Sun, 22 Nov 2026 10:01:10 +0000",
        "Message-ID": "<0kqm0e2q5h7j4abc@mx.example.org>",
        "In-Reply-To": "<1@example.org>",
        "References": "<1@example.org>",
        "Auto-Submitted": "auto-replied",  # RFC 3834 §5.2: never auto-generated
        "MIME-Version": "1.0",
        "Content-Type": 'multipart/report; report-type="delivery-status"; boundary="=_0kqm0e2q5h7j4abc"',
    }
    assert not any(header[name].defects for name in header)


@pytest.mark.parametrize(
    ("action", "subject"),
    [
        (FAILED, "Your mail could not be delivered"),
        (DELAYED, "Your mail is delayed"),
        (RELAYED, "Your mail was handed on"),
    ],
)
def test_the_subject_says_what_it_is(action: Action, subject: str) -> None:
    assert report(recipient(action=action, on=ASKED[action])).header["Subject"] == subject


def test_the_gravest_makes_the_subject() -> None:
    mixed = report(recipient(action=DELAYED), recipient("carol@example.net", on="SUCCESS", action=RELAYED), recipient())
    assert mixed.header["Subject"] == "Your mail could not be delivered"
    assert [one["Action"] for one in mixed.recipients] == ["failed", "delayed", "relayed"]


@pytest.mark.parametrize(
    ("sender", "local", "domain"),
    [
        ("ann@example.org", "ann", "example.org"),
        ('"a n n"@example.org', "a n n", "example.org"),
        (r'"a\"b>, c"@example.org', 'a"b>, c', "example.org"),
        ("ann@[192.0.2.1]", "ann", "[192.0.2.1]"),
        ("ännchen@bücher.example", "ännchen", "bücher.example"),
        ("Postmaster", "Postmaster", HOST),  # RFC 5321 §4.5.1: a reverse-path without a domain
    ],
)
def test_it_goes_to_the_reverse_path(sender: str, local: str, domain: str) -> None:
    to = report(sender=sender).header["To"].addresses
    assert to == (MailAddress("", local, domain),)
    assert bounce.addressee(queued(sender=sender), HOST) == address(sender if "@" in sender else f"Postmaster@{HOST}")


@pytest.mark.parametrize(
    ("sender", "author"),
    [
        (None, "postmaster@mx.example.org"),
        ("ops@example.org", "ops@example.org"),
        ("ops@bücher.example", "ops@xn--bcher-kva.example"),  # readable without SMTPUTF8
    ],
)
def test_whose_name_it_bears(sender: str | None, author: str) -> None:
    octets = built(queued(recipient()), sender=sender)
    assert str(parse_author(Message.parse(octets))) == author
    assert str(bounce.author(Bounce(sender=sender), HOST)) == author
    assert octets.isascii()


@pytest.mark.parametrize(
    "value",
    [
        b"<1@example.org>\r\nMessage-ID: <2@example.org>",
        b"1@example.org",
        b"<1@example.org> <2@example.org>",
        b"<1@exam ple.org>",
        b"<\xff@example.org>",
        b"<1>",
        b"<>",
        b"<" + b"x" * 201 + b"@example.org>",
        b"<1@example.org>,\r\n\t<2@example.org>",
    ],
)
def test_a_message_id_that_is_not_plain_is_not_repeated(value: bytes) -> None:
    header = report(mail=b"Message-ID: " + value + b"\r\n\r\n", takes=SEVEN).header
    assert "In-Reply-To" not in header
    assert "References" not in header


def test_a_folded_message_id_is_repeated() -> None:
    header = report(mail=b"Message-ID:\r\n\t<1.2-3@[192.0.2.1]> \r\n\r\n").header
    assert header["In-Reply-To"] == header["References"] == "<1.2-3@[192.0.2.1]>"


# --- who is told ---------------------------------------------------------------------------------

EVENTS = ["", "NEVER"] + [
    ",".join(words) for count in (1, 2, 3) for words in itertools.combinations(("SUCCESS", "FAILURE", "DELAY"), count)
]


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("on", EVENTS, ids=lambda on: on or "none")
def test_notify(on: str, action: Action) -> None:
    """RFC 3461 §5.2.2 (b)–(f), §5.2.5, §5.2.6: every value, with everything that may have happened."""
    told = bounce.told(queued(recipient(action=action, on=on)))
    if on == "":
        assert bool(told) == (action is not RELAYED)
    elif on == "NEVER":
        assert told == ()
    else:
        assert bool(told) == (ASKED[action] in on.split(","))


def test_nobody_stands_in_a_report_who_would_have_none_of_his_own() -> None:
    """RFC 3461 §5.2.8."""
    never, success = recipient("never@example.net", on="NEVER"), recipient("success@example.net", on="SUCCESS")
    about = report(never, recipient("bob@example.net"), success)
    assert [one["Final-Recipient"] for one in about.recipients] == ["rfc822; bob@example.net"]
    assert "never@" not in about.text
    assert "success@" not in about.text


@pytest.mark.parametrize("action", Action)
def test_never_about_a_report(action: Action) -> None:
    """RFC 3461 §5.2, RFC 5321 §4.5.5: whatever NOTIFY says, and whoever stands in From."""
    about = queued(recipient(action=action, on=ASKED[action]), sender=None)
    assert bounce.told(about) == ()
    assert bounce.addressee(about, HOST) is None


@pytest.mark.parametrize("action", Action)
def test_never_to_one_who_may_not_have_sent_it(action: Action) -> None:
    about = queued(recipient(action=action, on=ASKED[action]))
    assert bounce.told(about)
    assert bounce.told(replace(about, is_reportable=False)) == ()


# --- the text for people -------------------------------------------------------------------------


def test_the_text() -> None:
    about = report(
        recipient(),
        recipient("dave@example.com", reply="451 4.4.1 the next hop cannot be reached, try again later"),
        recipient("erin@example.com", DELAYED),
        recipient("frank@example.com", RELAYED, on="SUCCESS"),
    )
    assert about.text == (
        "Your mail reached the relay mx.example.org on\n"
        "Sun, 22 Nov 2026 10:00:00 +0000.\n"
        "\n"
        "It could not be delivered to the recipients below, and no more attempts\n"
        "will be made.\n"
        "\n"
        "<bob@example.net>\n"
        "    mx.example.net said: 550 5.1.1 no such user\n"
        "    There seems to be no such address. Look for a mistake in it, or ask\n"
        "    the recipient in another way.\n"
        "\n"
        "<dave@example.com>\n"
        "    the relay said: 451 4.4.1 the next hop cannot be reached, try again\n"
        "    later\n"
        "    It was tried until Sun, 22 Nov 2026 10:01:00 +0000.\n"
        "    You can send it again. If it is urgent, reach the recipient in\n"
        "    another way.\n"
        "\n"
        "It could not be delivered to the recipients below yet. You need not do\n"
        "anything: the relay goes on trying, and you will hear from it if it\n"
        "gives up.\n"
        "\n"
        "<erin@example.com>\n"
        "    mx.example.net said: 450 4.2.1 busy\n"
        "    It will be tried until Fri, 27 Nov 2026 10:00:00 +0000.\n"
        "\n"
        "It was handed on for the recipients below, to a host that does not\n"
        "report what becomes of it.\n"
        "\n"
        "<frank@example.com>\n"
        "    mx.example.net said: 250 2.0.0 OK\n"
        "\n"
        "What follows is for mail programs and for whoever runs your mail.\n"
        "The relay knows it as 0kqm0e2q5h7j4xyz.\n"
    )


ANSWERS = [
    ("550 5.1.1 unknown", "no such address"),
    ("553 5.1.8 bad sender", "Your own address"),
    ("552 5.2.2 full", "mailbox is full"),
    ("552 5.3.4 too big", "too large"),
    ("552 5.2.3 too big", "too large"),
    ("554 5.4.6 loop", "not set up correctly"),
    ("550 5.6.7 no SMTPUTF8", "Letters outside ASCII"),
    ("554 5.6.3 no 8BITMIME", "plain text"),
    ("550 5.7.1 no", "A rule forbids it"),
    ("550 5.0.0 no", "whoever runs your mail"),
    ("550 no", "whoever runs your mail"),
    ("451 4.2.1 busy", "send it again"),
    ("", "send it again"),
]


@pytest.mark.parametrize(("reply", "advice"), ANSWERS, ids=lambda value: value[:9])
def test_what_the_sender_can_do(reply: str, advice: str) -> None:
    assert advice in re.sub(r"\s+", " ", report(recipient(reply=reply)).text)


def test_a_long_word_stays_whole() -> None:
    """So that a link in a host's answer can be followed."""
    link = "https://support.example.net/" + "x" * 100
    assert link in report(recipient(reply=f"550 5.7.1 see {link} for more")).text


# --- the mail that goes back ---------------------------------------------------------------------


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("ret", ["", "FULL", "HDRS", "full", "hdrs"])
def test_ret(ret: str, action: Action) -> None:
    """RFC 3461 §6.2: whole only where something failed; RFC 6522 §3: also where nothing was said of it."""
    about = report(recipient(action=action, on=ASKED[action]), ret=ret)
    if action is FAILED and ret.upper() != "HDRS":
        assert (about.kind, about.returned) == ("message/rfc822", MAIL)
    else:
        assert (about.kind, about.returned) == ("text/rfc822-headers", MAIL.partition(b"\r\n\r\n")[0] + b"\r\n")


@pytest.mark.parametrize(("room", "kind"), [(0, "message/rfc822"), (-1, "text/rfc822-headers")])
def test_a_mail_that_is_too_large_comes_back_as_its_header(room: int, kind: str) -> None:
    mail = MAIL + b"x" * 70 + b"\r\n"
    about = report(mail=mail, max_size=len(mail) + room, ret="FULL")
    assert about.kind == kind
    assert about.returned in (mail, mail.partition(b"\r\n\r\n")[0] + b"\r\n")


def test_a_header_that_is_too_large_loses_what_does_not_fit() -> None:
    mail = b"Subject: lunch\r\nX-Large: " + b"x" * 900 + b"\r\nFrom: ann@example.org\r\n\r\n"
    about = report(mail=mail, max_size=100)
    assert about.returned == b"Subject: lunch\r\nFrom: ann@example.org\r\n"
    assert report(mail=mail, max_size=10).kind == ""


@pytest.mark.parametrize("mail", [None, b"\r\nonly a body\r\n"])
def test_mail_without_a_header_or_that_cannot_be_read(mail: bytes | None) -> None:
    about = report(mail=mail, ret="HDRS")
    assert (about.kind, about.returned) == ("", b"")  # RFC 6522 §3: the third part is optional
    assert about.recipients[0]["Status"] == "5.1.1"


BODY = MAIL.replace(b"At noon?", b"Um zw\xc3\xb6lf?")
HEADER = MAIL.replace(b"lunch", "Frühstück".encode())
BROKEN = MAIL.replace(b"lunch", b"Fr\xfchst\xfcck")
LONG = MAIL.replace(b"At noon?", b"x" * 999)
LONG_HEADER = MAIL.replace(b"lunch", b"x" * 999)
CASES = [
    # mail, what the hop takes, the label, its encoding, whether the whole mail is there
    ("ASCII", MAIL, SEVEN, "message/rfc822", "7bit", True),
    ("8 bits in the body", BODY, EIGHT, "message/rfc822", "8bit", True),
    # RFC 6522 §3: the way back has 7 bits
    ("8 bits in the body", BODY, SEVEN, "text/rfc822-headers", "7bit", False),
    ("UTF-8 in the header", HEADER, UTF8, "message/global", "8bit", True),
    # RFC 6533 §4.5: 7 bits where the way back does not take SMTPUTF8
    ("UTF-8 in the header", HEADER, EIGHT, "message/global", "quoted-printable", True),
    ("UTF-8 in the header", HEADER, SEVEN, "message/global", "quoted-printable", True),
    # RFC 6522 §4: headers that are broken; no label is true of such a mail
    ("Latin-1 in the header", BROKEN, EIGHT, "text/rfc822-headers", "quoted-printable", False),
    ("Latin-1 in the header", BROKEN, SEVEN, "text/rfc822-headers", "quoted-printable", False),
    # RFC 2045 §2.7, §2.8: lines of more than 998 octets are neither 7bit nor 8bit
    ("a long line", LONG, UTF8, "text/rfc822-headers", "7bit", False),
    ("a long field", LONG_HEADER, UTF8, "text/rfc822-headers", "quoted-printable", False),
    ("a long line below UTF-8", HEADER + LONG, UTF8, "message/global", "quoted-printable", True),
]


@pytest.mark.parametrize(("mail", "takes", "kind", "encoding", "is_whole"), [case[1:] for case in CASES])
def test_the_label_is_true(mail: bytes, takes: Capabilities, kind: str, encoding: str, is_whole: bool) -> None:
    octets = built(queued(recipient(), size=len(mail), ret="FULL"), mail, takes)
    about = read(octets)
    assert (about.kind, about.encoding) == (kind, encoding)
    assert about.returned == (mail if is_whole else mail.partition(b"\r\n\r\n")[0] + b"\r\n")
    assert octets.isascii() == (encoding != "8bit")
    # RFC 2045 §6.4: what holds 8 bits says so.
    assert about.header["Content-Transfer-Encoding"] == (None if octets.isascii() else "8bit")


@pytest.mark.parametrize(
    ("takes", "kind", "encoding"),
    [(UTF8, "message/global-headers", "8bit"), (EIGHT, "message/global-headers", "quoted-printable")],
)
def test_a_header_outside_ascii_alone(takes: Capabilities, kind: str, encoding: str) -> None:
    """RFC 6533 §4.3."""
    about = report(mail=HEADER, takes=takes, ret="HDRS")
    assert (about.kind, about.encoding) == (kind, encoding)
    assert about.returned == HEADER.partition(b"\r\n\r\n")[0] + b"\r\n"


def test_a_mail_that_holds_a_report_does_not_end_ours() -> None:
    inner = built(queued(recipient())).replace(ID.encode(), b"0kqm0e2q5h7j4aaa")
    about = report(mail=inner, max_size=len(inner))
    assert about.returned == inner
    assert about.kind == "message/rfc822"


# --- addresses outside ASCII ---------------------------------------------------------------------


def test_utf8_where_the_way_back_takes_it() -> None:
    """RFC 6533 §4.1."""
    octets = built(queued(recipient("büro@bücher.example"), smtputf8=True))
    about = read(octets)
    assert about.status_kind == "message/global-delivery-status"
    assert about.recipients[0]["Final-Recipient"] == "utf-8; büro@bücher.example"
    assert "<büro@bücher.example>" in about.text
    assert about.header["Content-Transfer-Encoding"] == "8bit"


@pytest.mark.parametrize("takes", [SEVEN, EIGHT, Capabilities(smtputf8=True)], ids=["7bit", "8bit", "utf8 alone"])
def test_seven_bits_where_it_does_not(takes: Capabilities) -> None:
    """RFC 6533 §3: utf-8-addr-xtext MUST be used; nothing is lost in it."""
    octets = built(queued(recipient("büro@bücher.example"), smtputf8=True), takes=takes)
    assert octets.isascii()
    about = read(octets)
    assert about.status_kind == "message/delivery-status"
    assert about.recipients[0]["Final-Recipient"] == r"utf-8; b\x{FC}ro@b\x{FC}cher.example"
    assert "<büro@bücher.example>" in about.text


def test_ascii_stays_with_the_older_types() -> None:
    """RFC 6533 §4.4: they MAY be used, and every program reads them."""
    assert report(smtputf8=True).status_kind == "message/delivery-status"


# --- injection -----------------------------------------------------------------------------------

NASTY = st.text(st.sampled_from('a1 ;:<>@().\\{}"\t\r\n\0\x0b\x1b\x85\u2028\u202eü€\U0001f600\ud800+=?-_'))
LINES = st.sampled_from(
    ["\r\nBcc: eve@example.net", "\r\n\r\nhello", "\n", f"\r\n--=_{ID}", "=?utf-8?q?=0D=0ABcc:_eve?=", "\r\n.\r\n"]
)
FOREIGN = st.lists(NASTY | LINES | st.text(max_size=30), max_size=5).map("".join)
FIELD = st.sampled_from(
    [b"From: a@b\r\n", b"Message-ID: <1@b>\r\n", b"Message-ID: <1@b>\r\n\tx\r\n", b"Subject: a\r\n b\r\n",
     "Subject: ü\r\n".encode(), b"Subject: \xff\r\n", b"X: " + b"x" * 1200 + b"\r\n", b"X:\r\n", b"X: \r\n \r\n",
     b"Content-Type: multipart/mixed; boundary=b\r\n", b"Content-Transfer-Encoding: base64\r\n", b"X: a \r\n\t\r\n",
     b"Content-Type: message/rfc822\r\n", b"DKIM-Signature: v=1\r\n"]
)  # fmt: skip
LINE = st.sampled_from(
    [b"", b".", b"..", b"--b", b"--b--", b"--=_", b"From a", b"=20", b" ", b"\t", b"a ", b"\xff", b"x" * 1001]
)
CONTENT = st.tuples(st.lists(FIELD, min_size=1, max_size=6), st.lists(LINE, max_size=8), st.booleans()).map(
    lambda parts: b"".join(parts[0]) + b"\r\n" + b"\r\n".join(parts[1]) + b"\r\n" * parts[2]
)
TAKES = st.sampled_from([SEVEN, EIGHT, UTF8, Capabilities(smtputf8=True)])


@settings(deadline=None)
@given(
    FOREIGN, FOREIGN, FOREIGN, FOREIGN, FOREIGN, CONTENT, TAKES, st.sampled_from(Action), st.sampled_from(["", "HDRS"])
)
@example("550 5.1.1 x\r\n\r\nBcc: eve@example.net", "", "", "a@b", "", MAIL, SEVEN, FAILED, "")
@example("", "", "", "ann\r\nBcc: eve@example.net", "", MAIL, UTF8, FAILED, "")
@example("x" * 3000, "x" * 3000, "x" * 3000, "x" * 3000, "x" * 3000, MAIL, SEVEN, FAILED, "")
def test_whatever_it_is_about_the_report_is_one(
    said: str,
    host: str,
    original: str,
    local: str,
    envid: str,
    mail: bytes,
    takes: Capabilities,
    action: Action,
    ret: str,
) -> None:
    one = recipient(action=action, reply=said, host=host)
    hostile = replace(one, address=Address(local, "example.net"), notify=Notify(ASKED[action], original))
    about = queued(hostile, size=len(mail), ret=ret, envid=envid)
    about.envelope.reverse_path = Address(local, "example.org")
    octets = built(about, mail, takes)
    found = read(octets)
    head, _, body = octets.partition(b"\r\n\r\n")
    assert [name.lower() for name in found.header if name.lower() not in ("in-reply-to", "references")] == [
        "from", "to", "subject", "date", "message-id", "auto-submitted", "mime-version", "content-type",
        *["content-transfer-encoding"] * (not body.isascii()),
    ]  # fmt: skip
    assert found.fields["Reporting-MTA"] == "dns; mx.example.org"
    assert [one["Action"] for one in found.recipients] == [action]
    header = mail[: mail.index(b"\r\n\r\n") + 2]
    assert found.returned in (mail, header)
    assert head.isascii() or not local.isascii()
    assert body.isascii() or takes.eight_bit
    assert not re.search(rb"[\x00\x0b\x0c\x1b]", octets)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), TAKES)
@example(b"a \r\n\t\r\n.\r\n=\r\n" + b"\xff" * 200, SEVEN)
def test_the_octets_of_the_mail_come_back(noise: bytes, takes: Capabilities) -> None:
    body = re.sub(rb"[\r\n\0]", b"\r\n", noise)
    mail = HEADER.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + body
    about = report(mail=mail, takes=takes, ret="FULL")
    assert about.kind == "message/global"
    assert about.returned == mail
