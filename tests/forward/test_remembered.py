"""Recipients that disagreed: each one's refusal is told once, at the retry."""

from ipaddress import ip_address

from relay.address import Address
from relay.envelope import Client, Envelope
from relay.forward.remembered import LIFETIME, MAX_KEPT, Remembered
from relay.outcome import Outcome, Result
from relay.reply import DISAGREE, Reply
from tests.support.clock import JumpingClock

ANN, BOB = Address("ann", "x.org"), Address("bob", "x.org")
NO_USER = Reply(550, "1.1", "no such user")
OUTCOMES = [
    Outcome(ANN, Result.TEMPORARY, DISAGREE, "hop"),
    Outcome(BOB, Result.PERMANENT, NO_USER, "hop"),
]


def envelope(ip: str = "192.0.2.1", sender: str = "eve") -> Envelope:
    return Envelope("m1", Client("l", "submission", ip_address(ip), 1), Address(sender, "y.org"))


def test_the_refused_recipient_hears_it_once_and_the_other_passes() -> None:
    remembered = Remembered(JumpingClock())
    remembered.keep(envelope(), OUTCOMES)
    assert remembered.take(envelope(), ANN) is None
    assert remembered.take(envelope(), BOB) == NO_USER
    assert remembered.take(envelope(), BOB) is None


def test_another_client_or_sender_hears_nothing_of_it() -> None:
    remembered = Remembered(JumpingClock())
    remembered.keep(envelope(), OUTCOMES)
    assert remembered.take(envelope(ip="192.0.2.2"), BOB) is None
    assert remembered.take(envelope(sender="mallory"), BOB) is None


def test_it_is_forgotten_in_time() -> None:
    clock = JumpingClock()
    remembered = Remembered(clock)
    remembered.keep(envelope(), OUTCOMES)
    clock.jump(LIFETIME + 1)
    assert remembered.take(envelope(), BOB) is None


def test_its_size_is_bounded() -> None:
    remembered = Remembered(JumpingClock())
    many = [Outcome(Address(f"u{n}", "x.org"), Result.PERMANENT, NO_USER, "hop") for n in range(MAX_KEPT + 5)]
    remembered.keep(envelope(), many)
    assert len(remembered) == MAX_KEPT
    assert remembered.take(envelope(), many[0].recipient) is None
    assert remembered.take(envelope(), many[-1].recipient) == NO_USER
