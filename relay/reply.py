"""SMTP replies, and every reply that is ours, by name.

STANDARDS  RFC 5321 §4.2 (reply codes), RFC 2034 and 3463 (enhanced codes), RFC 7372.
TRUSTS     nothing of a next hop's text: `from_hop` caps it and keeps printable ASCII only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

MAX_HOP_TEXT = 512  # octets of a next hop's reply that we repeat

_PRINTABLE = bytes(octet if 32 <= octet < 127 else ord("?") for octet in range(256))  # what is not, is a "?"
_ENHANCED = re.compile(r"([245])\.(\d{1,3}\.\d{1,3})(?: |\Z)")


@dataclass(slots=True, unsafe_hash=True)  # not frozen: two are made for each message, at four times the price
class Reply:
    """One reply. `Reply(451, "3.0", "try later")` is `451 4.3.0 try later` on the wire.

    code:   three digits.
    detail: the enhanced code without its class, which the code already says; "" for replies
            that have none (220, 334, 354, EHLO).
    text:   printable ASCII; a newline separates the lines of a multi-line reply.
    Nobody changes a reply: most are constants.
    """

    code: int
    detail: str
    text: str
    _octets: bytes = field(default=b"", init=False, repr=False, compare=False)  # `wire`, once it was asked for

    @property
    def is_positive(self) -> bool:
        return self.code < 400

    @property
    def is_temporary(self) -> bool:
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        return self.code >= 500

    @property
    def enhanced(self) -> str:
        return f"{self.code // 100}.{self.detail}" if self.detail else ""

    def wire(self) -> bytes:
        """The reply as octets, with its CRLFs."""
        if not self._octets:  # nearly all are constants, said again and again
            self._octets = self._encoded()
        return self._octets

    def _encoded(self) -> bytes:
        prefix = f"{self.enhanced} " if self.detail else ""
        if "\n" not in self.text and prefix:
            return f"{self.code} {prefix}{self.text}".rstrip(" ").encode("ascii", "replace") + b"\r\n"
        lines = self.text.split("\n")
        last = len(lines) - 1
        return "".join(
            f"{self.code}{' ' if index == last else '-'}{prefix}{line}".rstrip(" ") + "\r\n"
            if line or prefix
            else f"{self.code}{' ' if index == last else '-'}\r\n"
            for index, line in enumerate(lines)
        ).encode("ascii", "replace")

    def __str__(self) -> str:
        """The reply on one line, for logs: `550 5.1.1 no such user`."""
        code = f"{self.code} {self.enhanced}" if self.detail else f"{self.code}"
        return f"{code} {self.text}".replace("\n", " ") if self.text else code


def from_hop(code: int, lines: Sequence[bytes]) -> Reply:
    """A next hop's reply, fit to be repeated: printable ASCII, capped, enhanced code split off.

    lines: the text of each reply line, without code, separator and CRLF.
    A reply without an enhanced code gets `x.0.0`, which RFC 3463 §2 means for "nothing more known".
    """
    detail, texts, room = "", [], MAX_HOP_TEXT
    for line in lines:
        text = line[:room].translate(_PRINTABLE).decode("ascii")
        found = _ENHANCED.match(text)
        if found and int(found[1]) == code // 100:
            detail, text = detail or found[2], text[found.end() :]
        room -= len(text)
        texts.append(text.strip())
        if room <= 0:
            break
    return Reply(code, detail or "0.0", "\n".join(texts))


# --- what we say ourselves, in the order of a session -------------------------------------------


def greeting(hostname: str) -> Reply:
    return Reply(220, "", f"{hostname} ESMTP relay")


EARLY_TALKER = Reply(554, "5.0", "you spoke before the greeting")
TOO_MANY_CONNECTIONS = Reply(421, "7.0", "too many connections, try again later")
TOO_MANY_FROM_YOU = Reply(421, "7.0", "too many connections from your address")
SHUTTING_DOWN = Reply(421, "3.2", "the relay is shutting down")
IDLE_TOO_LONG = Reply(421, "4.2", "idle for too long")
TOO_SLOW = Reply(421, "4.2", "the message arrives too slowly")
TOO_MANY_ERRORS = Reply(421, "7.0", "too many errors")
OUT_OF_STEP = Reply(554, "5.0", "you sent ahead where a reply must be waited for")
NOT_SMTP = Reply(421, "5.0", "this is an SMTP server")

BYE = Reply(221, "0.0", "goodbye")
OK = Reply(250, "0.0", "OK")
VRFY = Reply(252, "5.0", "send mail to find out")
SENDER_OK = Reply(250, "1.0", "sender OK")
RECIPIENT_OK = Reply(250, "1.5", "recipient OK")
START_DATA = Reply(354, "", "end with CRLF.CRLF")
START_TLS = Reply(220, "0.0", "go ahead")

UNKNOWN_COMMAND = Reply(500, "5.1", "command not known")
BAD_CHARACTERS = Reply(500, "5.2", "control characters in the command")
BARE_NEWLINE_IN_COMMAND = Reply(500, "5.2", "commands end with CRLF")
LINE_TOO_LONG = Reply(500, "5.6", "line too long")
NOT_OFFERED = Reply(502, "5.1", "command not offered here")
BAD_SEQUENCE = Reply(503, "5.1", "bad sequence of commands")
HELLO_FIRST = Reply(503, "5.1", "send EHLO first")
NO_SENDER = Reply(503, "5.1", "send MAIL first")
NO_RECIPIENT = Reply(554, "5.1", "no valid recipients")
NESTED_MAIL = Reply(503, "5.1", "a transaction is already open")
ALREADY_TLS = Reply(503, "5.1", "TLS is already active")
TLS_FIRST = Reply(530, "7.0", "send STARTTLS first")
LOGIN_FIRST = Reply(530, "7.0", "log in first")
LOGIN_NEEDS_TLS = Reply(538, "7.11", "this login needs TLS")
LOGIN_BUSY = Reply(454, "7.0", "too many logins at once, try again")
LOGIN_LOCKED = Reply(454, "7.0", "too many failed logins, try again later")
LOGIN_FAILED = Reply(535, "7.8", "name or password is wrong")
LOGIN_OK = Reply(235, "7.0", "logged in")

UNKNOWN_PARAMETER = Reply(555, "5.4", "parameter not known")
NEEDS_SMTPUTF8 = Reply(553, "6.7", "a non-ASCII address needs SMTPUTF8")
TOO_MANY_RECIPIENTS = Reply(452, "5.3", "too many recipients, send the rest in another transaction")
NO_RELAY = Reply(550, "7.1", "relaying is not permitted")
SENDER_NOT_YOURS = Reply(550, "7.1", "you may not send as this address")
AUTHOR_NOT_YOURS = Reply(550, "7.1", "you may not send with this From address")
CLIENT_UNKNOWN = Reply(550, "7.1", "the load balancer does not say who you are")
NO_SUCH_RECIPIENT = Reply(550, "1.1", "no such recipient here")
UNVERIFIED = Reply(450, "1.1", "the recipient cannot be verified at the moment, try again later")
TOO_MANY_MESSAGES = Reply(450, "7.1", "too many messages, try again later")
TOO_MANY_RECIPIENTS_LATELY = Reply(452, "5.3", "too many recipients, try again later")
NO_ROUTE = Reply(550, "4.4", "no route to this recipient")

TOO_BIG = Reply(552, "3.4", "the message is larger than this relay takes")
OUT_OF_MEMORY = Reply(452, "3.1", "the relay is full at the moment, try again later")
DISK_FULL = Reply(452, "3.1", "no room to keep the message, try again later")
TOO_MANY_HOPS = Reply(554, "4.6", "too many hops, this message goes in circles")
BARE_NEWLINE = Reply(550, "6.0", "bare CR or bare LF in the message")
NUL_OCTET = Reply(550, "6.0", "NUL in the message")
LONG_LINE = Reply(550, "6.0", "a line of the message is longer than 998 octets")
BAD_FROM = Reply(550, "6.0", "the message must have one From field with one address")
NO_KEY = Reply(451, "3.5", "no key to sign for this From domain, try again later")
TOO_BIG_HOP = Reply(552, "3.4", "the message is larger than the next hop takes")
UTF8_HOP = Reply(550, "6.7", "the next hop does not take SMTPUTF8 mail")
EIGHT_BIT_HOP = Reply(554, "6.3", "the next hop does not take 8-bit mail")
INTERNAL = Reply(451, "3.0", "internal trouble, try again later")
DISAGREE = Reply(451, "5.3", "the recipients got different answers, send again")
HOP_UNREACHABLE = Reply(451, "4.1", "the next hop cannot be reached, try again later")
HOP_TROUBLE = Reply(451, "4.0", "trouble with the next hop, try again later")
HOP_TIMEOUT = Reply(451, "4.2", "the next hop did not answer in time, try again later")
HOP_TLS = Reply(451, "7.4", "no acceptable TLS with the next hop, try again later")


def syntax(text: str) -> Reply:
    """501: the arguments are wrong; `text` says how."""
    return Reply(501, "5.4", text)


def bad_sender(text: str) -> Reply:
    return Reply(501, "1.7", f"bad reverse-path: {text}")


def bad_recipient(text: str) -> Reply:
    return Reply(501, "1.3", f"bad forward-path: {text}")


def malformed(text: str) -> Reply:
    return Reply(550, "6.0", text)


class Check(StrEnum):
    """Which check a refusal is about, as enhanced code."""

    DKIM = "7.20"  # RFC 7372 §3.1: no signature passes
    DKIM_NOT_ACCEPTABLE = "7.21"  # one passes, and we do not take it
    SPF = "7.23"  # RFC 7372 §3.2
    SPF_ERROR = "7.24"
    REVERSE_DNS = "7.25"  # RFC 7372 §3.3
    SEVERAL = "7.26"  # RFC 7372 §3.4; and DMARC, where neither SPF nor DKIM is the author's
    ARC = "7.29"  # RFC 8617 §10.3


def failed_check(check: Check, text: str, message_id: str, *, temporary: bool = False) -> Reply:
    """550, or 451 for what may be better later."""
    return Reply(451 if temporary else 550, check, f"{text} [{message_id}]")


def chunk_taken(octets: int) -> Reply:
    """To every BDAT but the last (RFC 3030 §2)."""
    return Reply(250, "0.0", f"{octets} octets taken")


def accepted(message_id: str) -> Reply:
    """We took the message ourselves: it is in the inbox."""
    return Reply(250, "0.0", f"OK {message_id}")


def queued(message_id: str) -> Reply:
    """We took the message, and answer for it until it is delivered, reported or held."""
    return Reply(250, "0.0", f"queued as {message_id}")
