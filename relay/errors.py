"""The exceptions, for what must stop the caller. Failing mail is data, never an exception.

RelayError
├── ConfigError          the configuration cannot be used; every problem with file and key
├── MalformedAddress     bytes that RFC 5321 §4.1.2 (or RFC 5322 §3.4) does not call an address
├── MalformedMessage     bytes that cannot be called a message, or exceed a limit on headers
├── MalformedTags        text that is no tag list (RFC 6376 §3.2)
├── MalformedSpf         a text that RFC 7208 §12 does not call an SPF record or a macro string
├── CannotSign           a From domain of ours has no usable key
└── ResolverError        a DNS question without the records that were asked for
    ├── NoSuchName       NXDOMAIN: the name does not exist, or cannot
    ├── NoData           the name exists, without such records
    └── DnsTrouble       nobody knows: SERVFAIL, refused, timeout, over the budget
"""

from __future__ import annotations

from dataclasses import dataclass

from relay.escape import escape


class RelayError(Exception):
    """Everything that relay raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration.

    source: the file, or "environment" or "command line", that the value came from.
    key:    dotted key, `listener.submission.port`; "" when it is the source as a whole.
    text:   one sentence for the operator, with the way out where there is one.
    """

    source: str
    key: str
    text: str

    def __str__(self) -> str:
        # A name, of a hop or a file, may be anything.
        return escape(": ".join(part for part in (self.source, self.key, self.text) if part))


class ConfigError(RelayError):
    """The configuration cannot be used; `problems` are all that were found, one line each."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class MalformedAddress(RelayError):
    """Not an address; `str()` says why, in words fit for the peer (never its bytes)."""


class MalformedMessage(RelayError):
    """Not a message we will carry; `str()` says why, in words fit for the peer."""


class MalformedTags(RelayError):
    """Not a tag list; `str()` says why, in words that quote nothing of it."""


class MalformedSpf(RelayError):
    """Not an SPF record, or not a macro string (RFC 7208 §12); `str()` says where, and may hold the record's text."""


class CannotSign(RelayError):
    """A From domain of ours has no usable key; `str()` is for our log, not for the peer."""


class ResolverError(RelayError):
    """A DNS question without the records that were asked for; `str()` is for people, with the name in it."""


class NoSuchName(ResolverError):
    """NXDOMAIN; or what was asked can be no name (RFC 1035 §2.3.4), and no packet was sent."""


class NoData(ResolverError):
    """The name exists, without records of the type."""


class DnsTrouble(ResolverError):
    """Nobody knows: SERVFAIL, refused, timeout, an answer that cannot be used, over the budget. Ask again later."""
