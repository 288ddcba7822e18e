"""Rates: whose mail is counted, and that a window slides."""

from __future__ import annotations

from collections import deque
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.address import Address
from relay.config.models import Config
from relay.decide.rate import MOST, OwnWindows, Rates, Window, subject
from relay.envelope import Client, Envelope
from relay.fact import Fact
from relay.reply import TOO_MANY_MESSAGES, TOO_MANY_RECIPIENTS_LATELY, Reply
from tests.support.clock import JumpingClock

ANN = Address("ann", "ours.org")


def config(**rates: dict[str, Any]) -> Config:
    return Config.model_validate(
        {
            "hostname": "relay.test",
            "listener": {"submission": {"role": "submission", "port": 0}},
            "limit": {"exempt": ["192.0.2.0/24"]},
            "rate": rates,
        }
    )


def envelope(
    ip: str = "198.51.100.1", login: str | None = None, sender: Address | None = ANN, listener: str = "submission"
) -> Envelope:
    return Envelope("m1", Client(listener, "submission", ip_address(ip), 1, login=login), sender)


class Counting:
    def __init__(self) -> None:
        self.clock, self.facts = JumpingClock(), list[Fact]()
        self.rates = Rates(self.clock, self.facts.append)

    @property
    def windows(self) -> OwnWindows:
        assert isinstance(self.rates.windows, OwnWindows)
        return self.rates.windows


@pytest.fixture
def counting() -> Counting:
    return Counting()


SUBJECTS = [
    # per, envelope: who
    ("login", envelope(login="app"), "app"),
    ("login", envelope(), None),
    ("ip", envelope(), "198.51.100.1"),
    ("ip", envelope(ip="::ffff:198.51.100.1"), "198.51.100.1"),
    ("ip", envelope(ip="2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64"),
    ("ip", envelope(ip="2001:db8:1:2::1"), "2001:db8:1:2::/64"),
    ("ip", envelope(ip="192.0.2.9"), None),  # limit.exempt
    ("ip", envelope(ip="::ffff:192.0.2.9"), None),
    ("ip", envelope(ip="127.0.0.1"), None),
    ("ip", envelope(ip="::1"), None),
    ("sender", envelope(), "ann@ours.org"),
    ("sender", envelope(sender=Address("Ann", "OURS.org")), "ann@ours.org"),
    ("sender", envelope(sender=None), None),  # <> is nobody's
    ("login", envelope(ip="192.0.2.9", login="app"), "app"),  # exempt networks are so from rates by address only
]


@pytest.mark.parametrize(("per", "given", "who"), SUBJECTS)
def test_whose_mail_is_counted(per: str, given: Envelope, who: str | None) -> None:
    made = config(r={"per": per, "messages": 1})
    assert subject(made.rate["r"], given, made.limit.exempt) == who
    elsewhere = config(r={"per": per, "messages": 1, "listener": ["gateway"]})
    assert subject(elsewhere.rate["r"], given, elsewhere.limit.exempt) is None


def test_above_the_rate_is_temporary_and_says_no_more(counting: Counting) -> None:
    made = config(app={"per": "login", "messages": 2, "recipients": 3, "window": "60 s"})
    given = envelope(login="app")
    assert [counting.rates.message(made, given) for _ in range(3)] == [None, None, TOO_MANY_MESSAGES]
    assert [counting.rates.recipient(made, given) for _ in range(4)] == [None] * 3 + [TOO_MANY_RECIPIENTS_LATELY]
    # RFC 3463 §3.8; RFC 5321 §4.5.3.1.10
    assert str(TOO_MANY_MESSAGES) == "450 4.7.1 too many messages, try again later"
    assert str(TOO_MANY_RECIPIENTS_LATELY) == "452 4.5.3 too many recipients, try again later"
    assert [fact.event for fact in counting.facts] == ["decide.rated"] * 2
    assert counting.facts[0].values == {"rate": "app", "per": "login", "counted": "messages", "who": "app"}
    # Another login has its own.
    assert counting.rates.message(made, envelope(login="other")) is None


def test_0_is_any_number(counting: Counting) -> None:
    made = config(app={"per": "login", "messages": 0, "recipients": 1})
    assert [counting.rates.message(made, envelope(login="app")) for _ in range(1000)] == [None] * 1000
    assert len(counting.windows) == 0


def test_what_is_refused_is_not_counted(counting: Counting) -> None:
    """Nor by a second rate: a client that goes on trying is not locked out."""
    made = config(
        a={"per": "login", "messages": 2, "window": "60 s"}, b={"per": "ip", "messages": 3, "window": "6000 s"}
    )
    given = envelope(login="app")
    heard: list[Reply | None] = [counting.rates.message(made, given) for _ in range(50)]
    assert heard.count(None) == 2
    counting.clock.jump(120)
    assert [counting.rates.message(made, given) for _ in range(50)].count(None) == 1


def test_a_rate_is_never_a_lock(counting: Counting) -> None:
    made = config(app={"per": "login", "messages": 1, "window": "3600 s"})
    passed = 0
    for _ in range(24 * 60):  # a client that tries every minute of a day
        passed += counting.rates.message(made, envelope(login="app")) is None
        counting.clock.jump(60)
    assert passed == 24


def test_a_changed_window_begins_anew_and_a_changed_limit_does_not(counting: Counting) -> None:
    given = envelope(login="app")
    assert counting.rates.message(config(app={"per": "login", "messages": 1}), given) is None
    assert counting.rates.message(config(app={"per": "login", "messages": 2}), given) is None
    assert counting.rates.message(config(app={"per": "login", "messages": 2}), given) == TOO_MANY_MESSAGES
    assert counting.rates.message(config(app={"per": "login", "messages": 2, "window": "60 s"}), given) is None


def test_memory_is_bounded(counting: Counting) -> None:
    made = config(r={"per": "ip", "messages": 1})
    kept, lost = envelope(ip="198.51.100.1"), envelope(ip="198.51.100.2")
    counting.rates.message(made, lost)
    counting.rates.message(made, kept)
    for n in range(MOST):
        if n == MOST // 2:
            assert counting.rates.message(made, kept) == TOO_MANY_MESSAGES
        counting.rates.message(made, envelope(ip=str(ip_address((0x2001 << 112) + (n << 64)))))
    assert len(counting.windows) == MOST
    assert counting.rates.message(made, kept) == TOO_MANY_MESSAGES  # in use: kept
    assert counting.rates.message(made, lost) is None  # the longest unused is forgotten


@given(st.lists(st.floats(0.0, 40.0), max_size=200), st.integers(1, 12))
def test_a_window_lets_through_what_it_says(gaps: list[float], limit: int) -> None:
    """Against the exact log of times: never twice the limit in a window, and everything if that is below it."""
    window, now, length = Window(60.0, 0.0), 0.0, 60.0
    passed: deque[float] = deque()
    for gap in gaps:
        now += gap
        while passed and passed[0] <= now - 2 * length:
            passed.popleft()
        recent = sum(time > now - length for time in passed)
        if window.total(now) < limit:
            window.count += 1
            passed.append(now)
            assert recent + 1 <= 2 * limit
        else:
            assert len(passed) >= limit  # in two windows: who sends less is never refused


@given(st.lists(st.integers(0, 59), max_size=100))
def test_within_the_first_window_the_count_is_exact(times: list[int]) -> None:
    window = Window(60.0, 0.0)
    for count, time in enumerate(sorted(times)):
        assert window.total(float(time)) == count
        window.count += 1


def test_a_window_slides() -> None:
    window = Window(100.0, 0.0)
    window.count = 10
    # ten in the window before, of which the sliding one covers less and less
    assert [window.total(time) for time in (99.0, 100.0, 125.0, 150.0, 175.0, 199.0, 200.0, 1000.0)] == [
        10, 10, 7, 5, 2, 0, 0, 0,
    ]  # fmt: skip


@pytest.mark.parametrize("pause", [200.0, 250.0, 299.0, 300.0, 1e6])
def test_after_two_windows_all_begins_anew(pause: float) -> None:
    window = Window(100.0, 0.0)
    window.count = 10
    assert window.total(pause) == 0
    window.count = 4
    assert window.total(pause + 99.0) == 4
