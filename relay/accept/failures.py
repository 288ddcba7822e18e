"""Failed logins over all connections: who has guessed too often hears 454, and no hash is computed for him.

Names and addresses are counted alike, whether a name exists or not. Where a name lately logged in
from, that name is free of what strangers did: only its own failures from there count.

Workers tell each other of each failure, and of who is trusted anew: a few dozen a second at most, since each has
cost a hash.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from relay.clock import Clock
from relay.config.models import Login
from relay.telling import Telling

TRUST = 86_400.0  # seconds that an address stays known for a name
FRESH = 3600.0  # seconds that other workers need not hear of the same again
MAX_KEPT = 50_000  # names and addresses; at a few dozen hashes a second none is pushed out within its window


class Failures:
    """Sliding windows of `login.failures` in `login.failures_window`. They outlive a reload."""

    def __init__(self, settings: Login, clock: Clock, telling: Telling | None = None) -> None:
        self._settings, self._clock = settings, clock
        telling = telling or Telling()
        self._say_failed = telling.join("login failed", self._count)
        self._say_passed = telling.join("login passed", self._forgive)
        self._times: OrderedDict[Hashable, list[float]] = OrderedDict()
        self._trusted: OrderedDict[tuple[Hashable, str], float] = OrderedDict()

    def update(self, settings: Login) -> None:
        """New limits; what was counted stays."""
        self._settings = settings

    def is_locked(self, name: str, address: Hashable, *, exempt: bool) -> bool:
        """No login as `name` is tried now. exempt: failures of others from `address` do not count."""
        own = (address, name)
        if self._is_full(own):
            return True
        if self._trusted.get(own, 0.0) > self._clock.monotonic():
            return False
        return self._is_full(name) or (not exempt and self._is_full((address,)))

    def failed(self, name: str, address: Hashable) -> None:
        now = self._clock.monotonic()
        self._count(name, address, now)
        self._say_failed(name, address, now)

    def passed(self, name: str, address: Hashable) -> None:
        """The password was right: slips are forgiven to this name at this address, nothing to anybody else."""
        until = self._clock.monotonic() + TRUST
        own = (address, name)
        if own in self._times or self._trusted.get(own, 0.0) < until - FRESH:
            self._say_passed(name, address, until)
        self._forgive(name, address, until)

    def _count(self, name: str, address: Hashable, now: float) -> None:
        for key in ((address, name), (address,), name):
            times = self._times.setdefault(key, [])
            times.append(now)
            del times[: -self._settings.failures]
            self._times.move_to_end(key)
        while len(self._times) > MAX_KEPT:
            self._times.popitem(last=False)

    def _forgive(self, name: str, address: Hashable, until: float) -> None:
        self._times.pop((address, name), None)
        self._trusted[address, name] = until
        self._trusted.move_to_end((address, name))
        while len(self._trusted) > MAX_KEPT:
            self._trusted.popitem(last=False)

    def _is_full(self, key: Hashable) -> bool:
        times = self._times.get(key, ())
        since = self._clock.monotonic() - self._settings.failures_window
        return len(times) >= self._settings.failures and times[-self._settings.failures] > since
