"""A fact: one thing that happened to one message, session or part of the relay.

The log line, the metric and the row of the journal are the same `Fact`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)  # not frozen: half a dozen are made for each message, and that would take four times as long
class Fact:
    """`event` is `stage.what` (`forward.delivered`); `id` the message's or session's id, or "".

    `values` are JSON-able scalars or lists of them: addresses as text, seconds as float,
    never a secret, a password or a message body. Nobody changes a fact.
    """

    event: str
    id: str = ""
    values: Mapping[str, object] = field(default_factory=dict)
    level: str = "info"  # debug, info, warning, error


Record = Callable[[Fact], None]
Recorded = tuple[float, Fact]  # when it was recorded, in seconds since the epoch
