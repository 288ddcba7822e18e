"""The exceptions, for what must stop the caller. Failing mail is data, never an exception.

RelayError
├── ConfigError          the configuration cannot be used; names file and key
├── MalformedAddress     bytes that RFC 5321 §4.1.2 (or RFC 5322 §3.4) does not call an address
├── MalformedMessage     bytes that cannot be called a message, or exceed a limit on headers
└── CannotSign           a From domain of ours has no usable key
"""

from __future__ import annotations


class RelayError(Exception):
    """Everything that relay raises on purpose."""


class ConfigError(RelayError):
    """The configuration cannot be used.

    source:  the file (or "environment", "command line") the value came from.
    key:     dotted key, `listener.submission.port`; "" when it is the file as a whole.
    problem: one sentence for the operator.
    """

    def __init__(self, source: str, key: str, problem: str) -> None:
        self.source, self.key, self.problem = source, key, problem
        super().__init__(": ".join(part for part in (source, key, problem) if part))


class MalformedAddress(RelayError):
    """Not an address; `str()` says why, in words fit for the peer (never its bytes).

    enhanced: the RFC 3463 subject.detail of the fault: "1.3" recipient, "1.7" sender syntax.
    """


class MalformedMessage(RelayError):
    """Not a message we will carry; `str()` says why, in words fit for the peer."""


class CannotSign(RelayError):
    """A From domain of ours has no usable key; `str()` is for our log, not for the peer."""
