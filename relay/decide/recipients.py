"""The recipients there are: a gateway's file of them, and what it says of one.

STANDARDS  RFC 5321 §4.5.1 (every domain has a Postmaster), RFC 3463 §3.2 (5.1.1).
TRUSTS     the file, which is the operator's: UTF-8, one recipient a line, an address or `@domain` for all of
           that domain; blank lines and lines that begin with `#` count for nothing. Addresses compare as
           lists always do here (`Address.key`). A part behind `+` is part of the address.
FAILS      ConfigError with file and line.
"""

from __future__ import annotations

import re
from pathlib import Path

from relay.address import Address, domain_key, parse_domain, parse_mailbox
from relay.config.models import Config
from relay.errors import ConfigError, MalformedAddress, Problem
from relay.reply import NO_SUCH_RECIPIENT, Reply

MAX_PROBLEMS = 20  # bad lines told at once

# An address whose key is itself in lower case, as nearly all are: a million lines are read in a second.
_PLAIN = re.compile(
    r"(?=[^@]{1,64}@[^@]{1,255}\Z)[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*"
    r"@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\Z"
)


class Recipients:
    """keys: of addresses, and of whole domains with "@" before them."""

    __slots__ = ("_keys",)

    def __init__(self, keys: set[str]) -> None:
        self._keys = keys

    def __contains__(self, recipient: Address) -> bool:
        return recipient.key in self._keys or f"@{recipient.domain_key}" in self._keys

    def __len__(self) -> int:
        return len(self._keys)


def read_recipients(path: Path) -> Recipients:
    """The recipients in the file. Raises ConfigError with its bad lines, at most `MAX_PROBLEMS` of them."""
    source = str(path)
    keys: set[str] = set()
    problems: list[Problem] = []
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                entry = line.strip()
                if _PLAIN.match(entry):
                    keys.add(entry.lower())
                elif entry and not entry.startswith("#"):
                    try:
                        keys.add(_key(entry))
                    except MalformedAddress as error:
                        problems.append(Problem(source, f"line {number}", f'write an address or "@domain": {error}'))
                        if len(problems) == MAX_PROBLEMS:
                            break
    except OSError as error:
        raise ConfigError(Problem(source, "", f"cannot be read: {error.strerror}")) from error
    except UnicodeDecodeError as error:
        raise ConfigError(Problem(source, "", "is not UTF-8")) from error
    if problems:
        raise ConfigError(*problems)
    return Recipients(keys)


def refuse_unknown(recipients: Recipients | None, recipient: Address, postmaster: str | None) -> Reply | None:
    """The refusal of a RCPT command for somebody who is not there, or None.

    recipients: of the listener; None when it has no such file. postmaster: the address configured for him.
    """
    if recipients is None or recipient in recipients or is_postmaster(recipient, postmaster):
        return None
    return NO_SUCH_RECIPIENT


def is_postmaster(recipient: Address, postmaster: str | None) -> bool:
    """RFC 5321 §4.5.1: Postmaster, bare or at any domain of ours, and whoever was named for the part."""
    key = recipient.key
    return key.startswith("postmaster@") or (postmaster is not None and key == _key(postmaster))


def postmaster_at(postmaster: str | None, domain: str) -> Address:
    """Who is meant by the bare Postmaster: the address configured for him, else his at `domain`."""
    local, _, own = (postmaster or "Postmaster").rpartition("@")
    return Address(local, own) if local else Address(own, domain)


def role_mailbox(recipient: Address, config: Config) -> Address | None:
    """Where mail to a role at one of our domains goes (RFC 2142); None for other recipients.

    Our domains are those that gateways take mail for, and those that we sign for.
    """
    settings = config.role_mailbox
    if settings.address is None or recipient.local.lower() not in settings.names:
        return None
    ours = {domain_key(domain.name) for domain in config.domain.values()}
    for listener in config.listener.values():
        ours.update(listener.domains)
    return parse_mailbox(settings.address.encode(), utf8=True) if recipient.domain_key in ours else None


def _key(entry: str) -> str:
    if entry.startswith("@"):
        return f"@{domain_key(parse_domain(entry[1:]))}"
    address = parse_mailbox(entry.encode(), utf8=True)
    if not address.domain:
        raise MalformedAddress("no domain")
    return address.key
