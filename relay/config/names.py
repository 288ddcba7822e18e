"""What a host, a domain, a network or a sender may look like in the configuration.

STANDARDS  RFC 5321 §4.1.2 (domains, mailboxes), RFC 1123 §2.1 (host names), RFC 4291 (IPv6).
TRUSTS     nothing; a value is taken as written or refused, never repaired.
FAILS      ValueError with the second half of a sentence: `write …`.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, PlainSerializer, PlainValidator, StringConstraints, WithJsonSchema

from relay.address import parse_domain, parse_mailbox
from relay.errors import MalformedAddress


def parse_network(value: object) -> IPv4Network | IPv6Network:
    """`"192.0.2.0/24"`, or one address; no host bits, no zone."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    wanted = 'write a network, such as "192.0.2.0/24" or "2001:db8::/32"'
    if not isinstance(value, str) or "%" in value:
        raise ValueError(wanted)
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        enclosing = ip_network(value, strict=False)
    except ValueError:
        raise ValueError(wanted) from None
    raise ValueError(f'write the network without host bits, "{enclosing}"')


def host_name(text: str) -> str:
    """A host name in ASCII; the last label is not a number (that would be an address)."""
    try:
        parse_domain(text)
    except MalformedAddress:
        raise ValueError('write a host name, such as "relay.example.org"') from None
    if not text.isascii():
        raise ValueError("write the name in its ASCII form (xn--…)")
    if text.rpartition(".")[2].isdigit():
        raise ValueError('write a host name, such as "relay.example.org", not an address')
    return text


def domain_name(text: str) -> str:
    """A mail domain; one with letters beyond ASCII may be written as it is read."""
    try:
        return parse_domain(text)
    except MalformedAddress:
        raise ValueError('write a domain, such as "example.org"') from None


def sender_domain(text: str) -> str:
    """The domain of a reverse-path; "" stands for the null reverse-path `<>`."""
    return domain_name(text) if text else text


def mailbox(text: str) -> str:
    try:
        if parse_mailbox(text.encode(), utf8=True).domain:
            return text
    except MalformedAddress:
        pass
    raise ValueError('write an address, such as "ann@example.org"')


def sender(text: str) -> str:
    """An address, `@domain`, or `*` for any."""
    try:
        if text == "*" or (text.startswith("@") and domain_name(text[1:])) or mailbox(text):
            return text
    except ValueError:
        pass
    raise ValueError('write an address, "@example.org" or "*"')


def replacement(text: str) -> str:
    """An address, or `@domain`: what a sender is rewritten to."""
    try:
        if text != "*":
            return sender(text)
    except ValueError:
        pass
    raise ValueError('write an address, or "@example.org" to change the domain alone')


def bind_address(text: str) -> str:
    """An address of ours to listen on. No names but localhost: DNS does not decide what we bind."""
    if text == "localhost" or _is_address(text):
        return text
    raise ValueError('write an IP address, such as "127.0.0.1", or "0.0.0.0" or "::" for all')


def own_address(text: str) -> str:
    if _is_address(text):
        return text
    raise ValueError('write an IP address of this machine, such as "192.0.2.1"')


def next_host(text: str) -> str:
    """A host to connect to: a name or an address, without brackets and port."""
    if _is_address(text):
        return text
    try:
        return domain_name(text)
    except ValueError:
        raise ValueError("write a host name or an IP address, without a port; the port is `port = …`") from None


def https_url(text: str) -> str:
    """A URL that secrets may be sent to: https, or http on loopback."""
    parts = urlsplit(text)
    is_own = parts.hostname is not None and (parts.hostname == "localhost" or parts.hostname.startswith("127."))
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and is_own)):
        raise ValueError('write a URL such as "https://login.example.net/token"; http will do on loopback only')
    return text


def nameserver(text: str) -> str:
    """`192.0.2.1`, `192.0.2.1:5353`, `[2001:db8::1]:5353`."""
    host, colon, port = text.rpartition(":")
    if text.count(":") != 1 and not host.endswith("]"):
        host, colon, port = text, "", ""
    if not _is_address(host.removeprefix("[").removesuffix("]")) or (colon and not port.isdecimal()):
        raise ValueError('write the address of a name server, such as "192.0.2.53" or "127.0.0.1:5353"')
    return text


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


AnyNetwork = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(parse_network),
    PlainSerializer(str),
    WithJsonSchema({"type": "string"}),
]
HostName = Annotated[str, AfterValidator(host_name)]
DomainName = Annotated[str, AfterValidator(domain_name)]
SenderDomain = Annotated[str, AfterValidator(sender_domain)]
Mailbox = Annotated[str, AfterValidator(mailbox)]
Sender = Annotated[str, AfterValidator(sender)]
Replacement = Annotated[str, AfterValidator(replacement)]
BindAddress = Annotated[str, AfterValidator(bind_address)]
OwnAddress = Annotated[str, AfterValidator(own_address)]
NextHost = Annotated[str, AfterValidator(next_host)]
Nameserver = Annotated[str, AfterValidator(nameserver)]
HttpsUrl = Annotated[str, AfterValidator(https_url)]
# A table's name stands in variables (`__` parts them there), in log lines and in metric labels.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*$", max_length=40)]
