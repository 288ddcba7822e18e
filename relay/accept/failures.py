"""Failed logins over all connections: who has guessed too often hears 454, and no hash is computed for him.

Names and addresses are counted alike, whether a name exists or not. Where a name lately logged in
from, that name is free of what strangers did: only its own failures from there count.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from relay.clock import Clock
from relay.config.models import Login

TRUST = 86_400.0  # seconds that an address stays known for a name
MAX_KEPT = 50_000  # names and addresses; at a few dozen hashes a second none is pushed out within its window


class Failures:
    """Sliding windows of `login.failures` in `login.failures_window`. They outlive a reload."""

    def __init__(self, settings: Login, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
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
        for key in ((address, name), (address,), name):
            times = self._times.setdefault(key, [])
            times.append(now)
            del times[: -self._settings.failures]
            self._times.move_to_end(key)
        while len(self._times) > MAX_KEPT:
            self._times.popitem(last=False)

    def passed(self, name: str, address: Hashable) -> None:
        """The password was right: slips are forgiven to this name at this address, nothing to anybody else."""
        self._times.pop((address, name), None)
        self._trusted[address, name] = self._clock.monotonic() + TRUST
        self._trusted.move_to_end((address, name))
        while len(self._trusted) > MAX_KEPT:
            self._trusted.popitem(last=False)

    def _is_full(self, key: Hashable) -> bool:
        times = self._times.get(key, ())
        since = self._clock.monotonic() - self._settings.failures_window
        return len(times) >= self._settings.failures and times[-self._settings.failures] > since
