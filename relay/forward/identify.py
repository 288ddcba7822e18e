"""Tells a server of ours who the client is: a PROXY header in front of everything, or XCLIENT between mails.

STANDARDS  HAProxy's proxy-protocol.txt §2.2 (version 2), Postfix's XCLIENT_README, RFC 3461 §4 (xtext).
TRUSTS     nothing a client said: its HELO name and its login go out as xtext, so that no blank or CRLF
           of theirs becomes one of ours.
FAILS      Trouble where the hop does not take it: mail never goes on in silence as if it were our own.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import pack

from relay.config.hop import HopKind, Identify
from relay.envelope import Client
from relay.forward.connection import Connection
from relay.forward.dialogue import Dialogue
from relay.forward.replies import extensions
from relay.forward.trouble import Fault, Phase, Trouble, refusal

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_LOCAL, _PROXY = 0x20, 0x21  # version 2, and the command
_TCP4, _TCP6 = 0x11, 0x21

_UNKNOWN = "[UNAVAILABLE]"
_MAX_VALUE = 255  # XCLIENT_README, of NAME and HELO
_MAX_COMMAND = 512  # RFC 5321 §4.5.3.1.4, with CRLF
_PLAIN = re.compile(r"[!-~]+")


def proxy_header(client: Client | None, host: str, port: int) -> bytes:
    """PROXY v2 for a connection to `host`, a numeric address; without a client it says that we speak for ourselves."""
    if client is None:
        return pack("!12sBBH", _SIGNATURE, _LOCAL, 0, 0)
    source: IPv4Address | IPv6Address = client.ip
    destination = ip_address(host.partition("%")[0])
    if destination.version != source.version:  # one family for both; of the two the client's matters
        destination = type(source)(0)
    addresses = source.packed + destination.packed + pack("!HH", client.port, port)
    family = _TCP4 if source.version == 4 else _TCP6
    return pack("!12sBBH", _SIGNATURE, _PROXY, family, len(addresses)) + addresses


def xclient(client: Client, attributes: str) -> tuple[bytes, ...]:
    """The commands that say all of what the hop wants to know, none longer than a command may be.

    attributes: as in the hop's EHLO reply, `NAME ADDR PORT`. Those not known are said to be so, else
    the hop would fill in ours.
    """
    values = {
        "NAME": _UNKNOWN,  # of the address; no name was looked up
        "ADDR": f"IPV6:{client.ip}" if client.ip.version == 6 else str(client.ip),
        "PORT": str(client.port),
        "PROTO": "ESMTP" if client.extended else "SMTP",
        "HELO": _value(client.helo),
        "LOGIN": _value(client.login or ""),
    }
    wanted = attributes.upper().split()
    commands, command = [], b"XCLIENT"
    for name, value in values.items():
        if name in wanted:
            attribute = f" {name}={value}".encode()
            if len(command) + len(attribute) + 2 > _MAX_COMMAND:
                commands.append(command + b"\r\n")
                command = b"XCLIENT"
            command += attribute
    return *commands, command + b"\r\n"


def is_for(identify: Identify, connection: Connection, client: Client | None) -> bool:
    """The connection can carry the client's mail, or (None) a question of our own."""
    match identify:
        case Identify.PROXY_V2:
            return (connection.client and connection.client.ip) == (client and client.ip)
        case Identify.XCLIENT:
            # Postfix trusts the client it was told of no further than any other: he is not offered XCLIENT.
            offered = "xclient" in connection.extensions or not connection.introduced
            return offered or client is None or connection.introduced == xclient(client, connection.xclient)
    return True


def check_offered(attributes: str) -> None:
    """Raises Trouble unless XCLIENT is offered for addresses."""
    if "ADDR" not in attributes.upper().split():
        raise Trouble(Phase.IDENTIFY, Fault.SETTINGS, "XCLIENT ADDR is not offered")


async def introduce(dialogue: Dialogue, kind: HopKind, client: Client, ehlo: str) -> None:
    """Say by XCLIENT whose mail comes next, unless that was said last. Raises Trouble.

    The connection `is_for` him. ehlo: our own name, for where the client has none that could be repeated.
    """
    connection, seconds = dialogue.connection, dialogue.timeout.ehlo
    commands = xclient(client, connection.xclient)
    if connection.introduced == commands:
        return
    for command in commands:
        connection.send(command, 1)
        if refused := await dialogue.answer(Phase.IDENTIFY, seconds):
            raise refused
    # The session begins anew, and what EHLO says now overrides HELO=.
    verb = "LHLO" if kind is HopKind.LMTP else "EHLO"
    name = client.helo if _PLAIN.fullmatch(client.helo) else ehlo
    connection.send(f"{verb} {name}\r\n".encode(), 1)
    reply = await connection.reply(Phase.IDENTIFY, seconds, dialogue.until)
    if refused := refusal(Phase.IDENTIFY, reply):
        raise refused
    connection.extensions = extensions(reply)
    connection.introduced = commands


def _value(text: str) -> str:
    """`text` as xtext (RFC 3461 §4)."""
    octets = text.encode()
    coded = "".join(chr(one) if 33 <= one <= 126 and one not in b"+=" else f"+{one:02X}" for one in octets)
    return coded if 0 < len(coded) <= _MAX_VALUE else _UNKNOWN
