"""Recipients that disagreed: each one's answer is told once, at the retry, and nobody gets a second copy."""

from collections.abc import Iterable
from ipaddress import ip_address

import pytest

from relay.address import Address
from relay.envelope import Client, Envelope
from relay.forward.remembered import DELIVERED_LIFETIME, LIFETIME, MAX_KEPT, Remembered
from relay.outcome import Outcome, Result
from relay.reply import DISAGREE, HOP_TIMEOUT, Reply
from tests.support.clock import JumpingClock

ANN, BOB, CAT = Address("ann", "x.org"), Address("bob", "x.org"), Address("cat", "x.org")
NO_USER, TAKEN = Reply(550, "1.1", "no such user"), Reply(250, "0.0", "taken")
AT_RCPT = [
    Outcome(ANN, Result.TEMPORARY, DISAGREE, "hop"),
    Outcome(BOB, Result.PERMANENT, NO_USER, "hop"),
]
AFTER_THE_DOT = [
    Outcome(ANN, Result.DELIVERED, TAKEN, "hop"),
    Outcome(BOB, Result.PERMANENT, NO_USER, "hop"),
    Outcome(CAT, Result.AMBIGUOUS, HOP_TIMEOUT, "hop"),
]
CONTENT = b"Subject: one\r\n\r\nhello\r\n"


def envelope(ip: str = "192.0.2.1", sender: str = "eve", login: str | None = None) -> Envelope:
    client = Client("l", "submission", ip_address(ip), 1, login=login)
    return Envelope("m1", client, Address(sender, "y.org"))


async def kept(clock: JumpingClock, outcomes: Iterable[Outcome], **keys: str) -> Remembered:
    remembered = Remembered(clock)
    await remembered.keep(envelope(**keys), outcomes, bytearray(CONTENT))
    return remembered


async def test_the_refused_recipient_hears_it_once_and_the_other_passes() -> None:
    remembered = await kept(JumpingClock(), AT_RCPT)
    assert remembered.take(envelope(), ANN) is None
    assert remembered.take(envelope(), BOB) == NO_USER
    assert remembered.take(envelope(), BOB) is None
    assert await remembered.settled(envelope(), [ANN, BOB], CONTENT) == {}


async def test_who_has_the_message_gets_no_second_copy_of_it() -> None:
    remembered = await kept(JumpingClock(), AFTER_THE_DOT)
    assert [remembered.take(envelope(), one) for one in (ANN, BOB, CAT)] == [None, NO_USER, None]
    assert await remembered.settled(envelope(), [CAT, ANN], CONTENT) == {ANN: AFTER_THE_DOT[0]}
    assert await remembered.settled(envelope(), [CAT, ANN], CONTENT) == {}, "the same again is a mail of its own"


async def test_a_recipient_who_is_named_twice_gets_no_second_copy_either() -> None:
    remembered = await kept(JumpingClock(), AFTER_THE_DOT)
    assert await remembered.settled(envelope(), [ANN, ANN], CONTENT) == {ANN: AFTER_THE_DOT[0]}


async def test_other_content_is_another_mail() -> None:
    remembered = await kept(JumpingClock(), AFTER_THE_DOT)
    assert await remembered.settled(envelope(), [ANN], CONTENT + b"\r\n") == {}
    assert await remembered.settled(envelope(), [ANN], CONTENT) == {ANN: AFTER_THE_DOT[0]}


@pytest.mark.parametrize("keys", [{"ip": "192.0.2.2"}, {"sender": "mallory"}, {"login": "eve"}])
async def test_another_client_or_sender_hears_nothing_of_it(keys: dict[str, str]) -> None:
    remembered = await kept(JumpingClock(), AFTER_THE_DOT)
    assert remembered.take(envelope(**keys), BOB) is None
    assert await remembered.settled(envelope(**keys), [ANN], CONTENT) == {}


async def test_a_login_is_the_same_client_from_everywhere() -> None:
    remembered = await kept(JumpingClock(), AFTER_THE_DOT, login="eve")
    assert remembered.take(envelope(ip="192.0.2.2", login="eve"), BOB) == NO_USER


async def test_it_is_forgotten_in_time() -> None:
    clock = JumpingClock()
    remembered = await kept(clock, AFTER_THE_DOT)
    clock.jump(LIFETIME + 1)
    assert remembered.take(envelope(), BOB) is None
    assert await remembered.settled(envelope(), [ANN], CONTENT) == {ANN: AFTER_THE_DOT[0]}
    await remembered.keep(envelope(), AFTER_THE_DOT, CONTENT)
    clock.jump(DELIVERED_LIFETIME + 1)
    assert await remembered.settled(envelope(), [ANN], CONTENT) == {}


async def test_what_is_out_of_date_takes_no_room() -> None:
    clock = JumpingClock()
    remembered = await kept(clock, AFTER_THE_DOT)
    clock.jump(DELIVERED_LIFETIME + 1)
    other = [Outcome(Address("u", "x.org"), result, NO_USER, "hop") for result in Result]
    await remembered.keep(envelope(), other, CONTENT)
    assert len(remembered) == 2


@pytest.mark.parametrize("result", [Result.PERMANENT, Result.DELIVERED])
async def test_its_size_is_bounded(result: Result) -> None:
    many = [Outcome(Address(f"u{n}", "x.org"), result, NO_USER, "hop") for n in range(MAX_KEPT + 5)]
    remembered = await kept(JumpingClock(), many)
    assert len(remembered) == MAX_KEPT
    first, last = many[0].recipient, many[-1].recipient
    if result is Result.PERMANENT:
        assert [remembered.take(envelope(), one) for one in (first, last)] == [None, NO_USER]
    else:
        assert [*await remembered.settled(envelope(), [first, last], CONTENT)] == [last]
