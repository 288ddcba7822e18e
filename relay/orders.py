"""What the supervisor asks of a worker, and what it answers. Besides, both tell Notes (`telling.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from relay.config.models import Config


@dataclass(frozen=True, slots=True)
class Begin:
    """Take mail. Answer: Ready; or ConfigError."""

    config: Config  # with the real port of each listener
    number: int
    count: int
    memory: int  # descriptor of what the workers share


@dataclass(frozen=True, slots=True)
class Ready:
    owner: str  # of its claims in the queue


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make all that `config` needs, and go on as before. Answer: None; or ConfigError."""

    config: Config


@dataclass(frozen=True, slots=True)
class Commit:
    """From now on go by what was prepared. Answer: None."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Forget what was prepared. Answer: None."""


@dataclass(frozen=True, slots=True)
class Count:
    """Answer: the metrics, as `relay.watch.metrics.Metrics.families` has them."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Told: take no more, finish what is in flight, and end."""
