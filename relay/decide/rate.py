"""How much mail a login, an address or a sender may hand over in a time: `[rate.*]`, by sliding windows.

Nobody is locked out: what is refused is not counted, so a client that goes on trying gets through again
as soon as what it sent before grows old.

STANDARDS  RFC 3463 §3.8 (4.7.1), RFC 5321 §4.5.3.1.10 (452 for recipients beyond a limit).
TRUSTS     the login and the address of the client. The reverse-path is what the client says: on a gateway
           anybody may spend what is another's, so a rate by sender belongs where senders are checked.
FAILS      never.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address

from relay.clock import Clock
from relay.config.models import Config, Network, Rate, RatePer
from relay.envelope import Envelope
from relay.fact import Fact, Record
from relay.reply import TOO_MANY_MESSAGES, TOO_MANY_RECIPIENTS_LATELY, Reply

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


class Rates:
    """The windows of all rates. They outlive a reload."""

    def __init__(self, clock: Clock, record: Record) -> None:
        self._clock, self._record = clock, record
        self._windows: OrderedDict[_Key, Window] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def message(self, config: Config, envelope: Envelope) -> Reply | None:
        """The refusal of a MAIL command, or None; then it is counted."""
        limits = {name: rate.messages for name, rate in config.rate.items()}
        return TOO_MANY_MESSAGES if self._is_over(config, envelope, "messages", limits) else None

    def recipient(self, config: Config, envelope: Envelope) -> Reply | None:
        """The refusal of a RCPT command, or None; then it is counted."""
        limits = {name: rate.recipients for name, rate in config.rate.items()}
        return TOO_MANY_RECIPIENTS_LATELY if self._is_over(config, envelope, "recipients", limits) else None

    def _is_over(self, config: Config, envelope: Envelope, what: str, limits: Mapping[str, int]) -> bool:
        """One more would be above a rate. If it is above none, it is counted for all."""
        now = self._clock.monotonic()
        counted = []
        for name, limit in limits.items():
            rate = config.rate[name]
            who = subject(rate, envelope, config.limit.exempt) if limit else None
            if who is None:
                continue
            window = self._window((name, what, who), rate.window, now)
            if window.total(now) >= limit:
                values = {"rate": name, "per": rate.per.value, "counted": what, "who": who}
                self._record(Fact("decide.rated", envelope.id, values, "warning"))
                return True
            counted.append(window)
        for window in counted:
            window.count += 1
        return False

    def _window(self, key: _Key, length: float, now: float) -> Window:
        window = self._windows.pop(key, None)
        if window is None or window.length != length:
            window = Window(length, now)
        self._windows[key] = window
        if len(self._windows) > MOST:
            self._windows.popitem(last=False)
        return window


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
