"""Command lines read from octets: the verb, the arguments of EHLO, MAIL and RCPT. Pure.

STANDARDS  RFC 5321 §4.1.1 (commands), §4.5.3.1.4 (512 octets), RFC 1870 §4 (SIZE), RFC 6152 §3
           (BODY), RFC 6531 §3.4 (SMTPUTF8), RFC 4954 §4 (12288 octets), §5 (AUTH=), RFC 3461 (DSN).
TRUSTS     nothing. The line came up to a CRLF, which is the only thing that ends one.
FAILS      a Reply instead of the command.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from relay import reply
from relay.accept import dsn as reports
from relay.address import Address, parse_path
from relay.envelope import Notify
from relay.errors import MalformedAddress
from relay.reply import Reply

# Octets of a line, without CRLF. MAIL and RCPT have room for the parameters of their extensions.
MAX_LINE = 510
MAX_MAIL_LINE = 1534
MAX_AUTH_LINE = 12286
_ROOM = {"MAIL": MAX_MAIL_LINE, "RCPT": MAX_MAIL_LINE, "AUTH": MAX_AUTH_LINE}
MAX_HELLO = 255  # RFC 5321 §4.5.3.1.2

_PRINTABLE = re.compile(rb"[ -~]*\Z")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_HTTP = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH", "PRI", "HOST:"})


class Mail(NamedTuple):
    """MAIL FROM. reverse_path: None is `<>`. size: 0 when not declared. ret, envid: as given, "" when not."""

    reverse_path: Address | None
    size: int = 0
    eight_bit: bool = False
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""


def parse_line(line: bytes) -> tuple[str, bytes] | Reply:
    """The verb in upper case and what follows its space, trailing white space off (RFC 5321 §4.1.1)."""
    word, _, argument = line.partition(b" ")
    verb = word[:16].decode("ascii", "replace").upper()
    if len(line) > MAX_LINE and len(line) > _ROOM.get(verb, MAX_LINE):
        return reply.LINE_TOO_LONG
    if not _PRINTABLE.match(line):
        if found := _CONTROL.search(line):
            return reply.BARE_NEWLINE_IN_COMMAND if found[0] in b"\r\n" else reply.BAD_CHARACTERS
        if verb not in ("MAIL", "RCPT"):
            return reply.BAD_CHARACTERS
    return verb, argument.rstrip(b" ")


def is_http(verb: str) -> bool:
    """A browser, or a request forged by one, talks to us."""
    return verb in _HTTP


def parse_hello(argument: bytes) -> str | Reply:
    """The name in EHLO or HELO: printable ASCII of at most 255 octets.

    We differ: it need not be a domain or literal (RFC 5321 §4.1.1.1), since many a device sends neither.
    """
    if not argument:
        return reply.syntax("say your name: EHLO example.org")
    if len(argument) > MAX_HELLO or b" " in argument:
        return reply.syntax("the name must be one word of at most 255 octets")
    return argument.decode("ascii")


def parse_mail(argument: bytes, *, extended: bool, spaces: bool, max_size: int, dsn: bool) -> Mail | Reply:
    """`FROM:<path> SIZE=… BODY=… SMTPUTF8 AUTH=… RET=… ENVID=…`; parameters only after EHLO.

    dsn: RET and ENVID are offered.
    """
    if argument[:5].upper() != b"FROM:":
        return reply.syntax("write MAIL FROM:<address>")
    try:
        path, rest = parse_path(argument[5:], utf8=True, spaces=spaces)
    except MalformedAddress as error:
        return reply.bad_sender(str(error))
    if path is not None and not path.domain:
        return reply.bad_sender("no domain")
    size, eight_bit, smtputf8, ret, envid = 0, False, False, "", ""
    parameters = _parameters(rest, extended=extended) if rest else {}
    if isinstance(parameters, Reply):
        return parameters
    for name, value in parameters.items():
        match name, value and value.upper():
            case b"SIZE", bytes(digits) if digits.isdigit() and len(digits) <= 20:  # RFC 1870 §4
                size = int(digits)
            case b"BODY", b"7BIT" | b"8BITMIME" as body:
                eight_bit = body == b"8BITMIME"
            case b"SMTPUTF8", None:
                smtputf8 = True
            case b"AUTH", bytes() if value == b"<>" or (value and reports.decode(value) is not None):
                pass  # RFC 4954 §5: to be taken; we do not believe it
            case b"RET" | b"ENVID", _ if not dsn:
                return reply.UNKNOWN_PARAMETER
            case b"RET", bytes() if value and reports.is_ret(value):
                ret = value.decode()
            case b"ENVID", bytes() if value and reports.is_envid(value):
                envid = value.decode()
            case b"SIZE" | b"BODY" | b"SMTPUTF8" | b"AUTH" | b"RET" | b"ENVID", _:
                return reply.syntax(f"bad value for {name.decode()}")
            case _:
                return reply.UNKNOWN_PARAMETER
    if not smtputf8 and not argument.isascii():  # in its path: no parameter may hold such
        return reply.NEEDS_SMTPUTF8
    if size > max_size:
        return reply.TOO_BIG
    return Mail(path, size, eight_bit, smtputf8, ret, envid)


def parse_rcpt(
    argument: bytes, *, extended: bool, spaces: bool, smtputf8: bool, dsn: bool
) -> tuple[Address, Notify | None] | Reply:
    """`TO:<path> NOTIFY=… ORCPT=…`; None without these. `<>` is no recipient. dsn: they are offered."""
    if argument[:3].upper() != b"TO:":
        return reply.syntax("write RCPT TO:<address>")
    try:
        path, rest = parse_path(argument[3:], utf8=True, spaces=spaces)
    except MalformedAddress as error:
        return reply.bad_recipient(str(error))
    if path is None:
        return reply.bad_recipient("it is empty")
    parameters = _parameters(rest, extended=extended) if rest else {}
    if isinstance(parameters, Reply):
        return parameters
    on = original = ""
    for name, value in parameters.items():
        match name, value:
            case b"NOTIFY", bytes() if dsn and value and reports.is_notify(value):
                on = value.decode().upper()
            case b"ORCPT", bytes() if dsn and value and reports.is_orcpt(value):
                original = value.decode()
            case b"NOTIFY" | b"ORCPT", _ if dsn:
                return reply.syntax(f"bad value for {name.decode()}")
            case _:
                return reply.UNKNOWN_PARAMETER
    if not smtputf8 and not argument.isascii():
        return reply.NEEDS_SMTPUTF8
    return path, Notify(on, original) if parameters else None


def _parameters(rest: bytes, *, extended: bool) -> dict[bytes, bytes | None] | Reply:
    """RFC 5321 §4.1.2, Mail-parameters; keywords in upper case, each at most once."""
    found: dict[bytes, bytes | None] = {}
    for word in rest.split():
        name, equals, value = word.partition(b"=")
        name = name.upper()
        if not name or not name.replace(b"-", b"").isalnum() or not value.isascii() or (equals and not value):
            return reply.syntax("a parameter is malformed")
        if name in found:
            return reply.syntax("a parameter is given twice")
        found[name] = value if equals else None
    if found and not extended:
        return reply.syntax("parameters need EHLO")
    return found
