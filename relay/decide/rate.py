"""How much mail a login, an address or a sender may hand over in a time: `[rate.*]`, by sliding windows.

Nobody is locked out: what is refused is not counted, so a client that goes on trying gets through again
as soon as what it sent before grows old.

STANDARDS  RFC 3463 §3.8 (4.7.1), RFC 5321 §4.5.3.1.10 (452 for recipients beyond a limit).
TRUSTS     the login and the address of the client. The reverse-path is what the client says: on a gateway
           anybody may spend what is another's, so a rate by sender belongs where senders are checked.
FAILS      never. Workers count together, in memory that they share (`relay/shared.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address
from types import TracebackType
from typing import Protocol

from relay.clock import Clock
from relay.config.models import Config, Network, Rate, RatePer
from relay.envelope import Envelope
from relay.fact import Fact, Record
from relay.reply import TOO_MANY_MESSAGES, TOO_MANY_RECIPIENTS_LATELY, Reply
from relay.shared import Memory

MOST = 100_000  # windows kept; the one longest unused goes first

_Key = tuple[str, str, str]  # rate, what is counted, who


class Window:
    """The count of a sliding window, from two counts: of the running window of fixed length and of the one before.

    That one counts for the part of it which the sliding window still covers, as if it had come evenly. This
    is the "sliding window counter" (Cloudflare, "How we built rate limiting capable of scaling to millions
    of domains", 2017): a few octets, where the exact log has one time for each message. It lets through no
    more than the limit in a fixed window, and no more than twice the limit in any.
    """

    __slots__ = ("before", "count", "length", "start")

    def __init__(self, length: float, now: float) -> None:
        self.length, self.start, self.before, self.count = length, now, 0, 0

    def total(self, now: float) -> int:
        """How many were counted in the last `length` seconds, nearly."""
        passed = (now - self.start) // self.length
        if passed >= 2:
            self.start, self.before, self.count = now, 0, 0
        elif passed:
            self.start, self.before, self.count = self.start + self.length, self.count, 0
        return int(self.before * (1 - (now - self.start) / self.length)) + self.count


class Windows(Protocol):
    """The windows of all that is counted. `with windows:` nobody else counts."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def get(self, key: _Key, length: float, now: float) -> Window: ...

    def put(self, key: _Key, window: Window) -> None: ...


class OwnWindows:
    """Those of one process."""

    def __init__(self) -> None:
        self._windows: OrderedDict[_Key, Window] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def __enter__(self) -> OwnWindows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def get(self, key: _Key, length: float, now: float) -> Window:
        window = self._windows.pop(key, None)
        if window is None or window.length != length:
            window = Window(length, now)
        self._windows[key] = window
        if len(self._windows) > MOST:
            self._windows.popitem(last=False)
        return window

    def put(self, key: _Key, window: Window) -> None:
        """It is the one that `get` gave."""


class SharedWindows:
    """Those of all workers. A key that is told apart from no other has 128 bits of a hash."""

    def __init__(self, memory: Memory) -> None:
        self._table = memory.windows

    def __enter__(self) -> SharedWindows:
        self._table.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.__exit__(kind, error, trace)

    def get(self, key: _Key, length: float, now: float) -> Window:
        window = Window(length, now)
        values = self._table.get("\0".join(key))
        if values is not None and values[0] == length:
            _, window.start, window.before, window.count = values
        return window

    def put(self, key: _Key, window: Window) -> None:
        self._table.put("\0".join(key), window.length, window.start, window.before, window.count)


class Rates:
    """What all rates count. It outlives a reload."""

    def __init__(self, clock: Clock, record: Record, memory: Memory | None = None) -> None:
        """memory: that workers share; None for this process alone."""
        self._clock, self._record = clock, record
        self.windows: Windows = OwnWindows() if memory is None else SharedWindows(memory)

    def message(self, config: Config, envelope: Envelope) -> Reply | None:
        """The refusal of a MAIL command, or None; then it is counted."""
        if not config.rate:
            return None
        limits = {name: rate.messages for name, rate in config.rate.items()}
        return TOO_MANY_MESSAGES if self._is_over(config, envelope, "messages", limits) else None

    def recipient(self, config: Config, envelope: Envelope) -> Reply | None:
        """The refusal of a RCPT command, or None; then it is counted."""
        if not config.rate:
            return None
        limits = {name: rate.recipients for name, rate in config.rate.items()}
        return TOO_MANY_RECIPIENTS_LATELY if self._is_over(config, envelope, "recipients", limits) else None

    def _is_over(self, config: Config, envelope: Envelope, what: str, limits: Mapping[str, int]) -> bool:
        """One more would be above a rate. If it is above none, it is counted for all."""
        asked = []
        for name, limit in limits.items():
            rate = config.rate[name]
            who = subject(rate, envelope, config.limit.exempt) if limit else None
            if who is not None:
                asked.append((rate, limit, (name, what, who)))
        over = self._count(asked) if asked else None
        if over is not None:
            rate, _, (name, what, who) = over
            values = {"rate": name, "per": rate.per.value, "counted": what, "who": who}
            self._record(Fact("decide.rated", envelope.id, values, "warning"))
        return over is not None

    def _count(self, asked: Sequence[tuple[Rate, int, _Key]]) -> tuple[Rate, int, _Key] | None:
        """The first that would be above its limit; None, and all are counted."""
        now, counted = self._clock.monotonic(), []
        with self.windows:
            for one in asked:
                rate, limit, key = one
                window = self.windows.get(key, rate.window, now)
                if window.total(now) >= limit:
                    return one
                counted.append((key, window))
            for key, window in counted:
                window.count += 1
                self.windows.put(key, window)
        return None


def subject(rate: Rate, envelope: Envelope, exempt: Sequence[Network]) -> str | None:
    """Whose mail the rate counts; None when it does not speak of this one.

    An IPv6 client is its /64: one customer has at least that.
    """
    client = envelope.client
    if rate.listener and client.listener not in rate.listener:
        return None
    match rate.per:
        case RatePer.LOGIN:
            return client.login
        case RatePer.SENDER:
            return envelope.reverse_path.key if envelope.reverse_path else None
        case RatePer.IP:
            ip = getattr(client.ip, "ipv4_mapped", None) or client.ip
            if ip.is_loopback or any(ip in network for network in exempt):
                return None
            return f"{IPv6Address(int(ip) >> 64 << 64)}/64" if isinstance(ip, IPv6Address) else str(ip)
