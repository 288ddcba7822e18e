"""Asking next hops about recipients: once for all who want to know, and never more than a few at a time."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest

from relay.address import Address
from relay.config.models import Verify
from relay.decide.verification import AT_ONCE, Verification
from relay.envelope import Client, Envelope
from relay.fact import Fact
from relay.outcome import Outcome, Result
from relay.reply import NO_SUCH_RECIPIENT, RECIPIENT_OK, UNVERIFIED, Reply
from tests.support.clock import JumpingClock
from tests.support.stages import until

DAY = 86400.0
ANN, EVE = Address("ann", "ours.org"), Address("eve", "ours.org")
ENVELOPE = Envelope("m1", Client("gateway", "gateway", ip_address("198.51.100.1"), 1), Address("x", "theirs.org"))
SETTINGS = Verify()
DEFER = Verify(on_trouble="defer")


class Hop:
    """Knows those in `known`, and nobody while it is in `trouble`. Answers once `open` is set."""

    def __init__(self, clock: JumpingClock, *known: Address) -> None:
        self.clock, self.known = clock, set(known)
        self.trouble = False
        self.broken = False
        self.open = asyncio.Event()
        self.open.set()
        self.asked: list[Address] = []
        self.deadlines: list[float] = []

    async def ask(self, envelope: Envelope, recipient: Address, until: float) -> Outcome:
        self.asked.append(recipient)
        self.deadlines.append(until)
        await self.open.wait()
        if self.broken:
            raise RuntimeError("a bug")
        if self.trouble:
            return Outcome(recipient, Result.TEMPORARY, Reply(451, "4.1", "down"), "box", "", "connect: refused")
        if recipient in self.known:
            return Outcome(recipient, Result.DELIVERED, RECIPIENT_OK, "box")
        return Outcome(recipient, Result.PERMANENT, Reply(550, "1.1", "who?"), "box", "", "rcpt: 550 5.1.1 who?")


class Asking:
    def __init__(self) -> None:
        self.clock = JumpingClock()
        self.hop = Hop(self.clock, ANN)
        self.facts: list[Fact] = []
        self.verification = Verification(self.clock, self.facts.append)

    async def refuse(self, recipient: Address, settings: Verify = SETTINGS, hop: str = "box") -> Reply | None:
        return await self.verification.refuse(settings, hop, self.hop.ask, ENVELOPE, recipient, 20.0)

    def results(self) -> list[object]:
        return [fact.values["result"] for fact in self.facts if fact.event == "decide.verified"]


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    made = Asking()
    yield made
    await made.verification.close()


async def test_the_hop_is_asked_once_and_its_word_counts(asking: Asking) -> None:
    for _ in range(3):
        assert await asking.refuse(ANN) is None
        assert await asking.refuse(Address("Ann", "OURS.org")) is None
        assert await asking.refuse(EVE) == NO_SUCH_RECIPIENT
    assert asking.hop.asked == [ANN, EVE]
    assert asking.hop.deadlines[0] == asking.clock.monotonic() + 20
    assert asking.results() == ["known", "unknown"]
    assert asking.facts[0].values["hop"] == "box"


async def test_another_hop_is_asked_for_itself(asking: Asking) -> None:
    await asking.refuse(ANN)
    await asking.refuse(ANN, hop="other")
    assert asking.hop.asked == [ANN, ANN]


async def test_ten_sessions_ask_one_question(asking: Asking) -> None:
    asking.hop.open.clear()
    sessions = [asyncio.create_task(asking.refuse(EVE)) for _ in range(10)]
    await until(lambda: bool(asking.hop.asked))
    sessions[0].cancel()  # the one that asked goes away; the others still hear the answer
    asking.hop.open.set()
    heard = await asyncio.gather(*sessions, return_exceptions=True)
    assert isinstance(heard[0], asyncio.CancelledError)
    assert heard[1:] == [NO_SUCH_RECIPIENT] * 9
    assert asking.hop.asked == [EVE]


@pytest.mark.parametrize(("settings", "reply"), [(SETTINGS, None), (DEFER, UNVERIFIED)])
async def test_trouble_accepts_or_defers_and_is_not_kept(asking: Asking, settings: Verify, reply: Reply | None) -> None:
    asking.hop.trouble = True
    assert await asking.refuse(EVE, settings) == reply
    asking.hop.trouble = False
    assert await asking.refuse(EVE, settings) == NO_SUCH_RECIPIENT
    assert asking.results() == ["unclear", "unknown"]


@pytest.mark.parametrize(("settings", "reply"), [(SETTINGS, None), (DEFER, UNVERIFIED)])
async def test_a_dictionary_does_not_reach_the_hop(asking: Asking, settings: Verify, reply: Reply | None) -> None:
    asking.hop.open.clear()
    names = [Address(f"x{n}", "ours.org") for n in range(100)]
    first = [asyncio.create_task(asking.refuse(name, settings)) for name in names[:AT_ONCE]]
    await until(lambda: len(asking.hop.asked) == AT_ONCE)
    async with asyncio.timeout(10):  # they do not wait for the hop
        assert [await asking.refuse(name, settings) for name in names[AT_ONCE:]] == [reply] * (100 - AT_ONCE)
    assert asking.hop.asked == names[:AT_ONCE]
    asking.hop.open.set()
    assert await asyncio.gather(*first) == [NO_SUCH_RECIPIENT] * AT_ONCE
    # The places are free again.
    assert await asking.refuse(names[-1], settings) == NO_SUCH_RECIPIENT


async def test_the_cap_is_the_hops_own(asking: Asking) -> None:
    asking.hop.open.clear()
    stuck = [asyncio.create_task(asking.refuse(Address(f"x{n}", "ours.org"))) for n in range(AT_ONCE)]
    await until(lambda: len(asking.hop.asked) == AT_ONCE)
    other = asyncio.create_task(asking.refuse(EVE, hop="other"))
    await until(lambda: asking.hop.asked[-1] == EVE)
    asking.hop.open.set()
    await asyncio.gather(other, *stuck)


async def test_a_due_answer_serves_on_while_it_is_asked_for_again(asking: Asking) -> None:
    await asking.refuse(ANN)
    asking.clock.jump(8 * DAY)
    asking.hop.known.clear()
    asking.hop.open.clear()
    assert await asking.refuse(ANN) is None
    assert await asking.refuse(ANN) is None
    await until(lambda: asking.hop.asked == [ANN, ANN])
    asking.hop.open.set()
    await until(lambda: asking.results() == ["known", "unknown"])
    assert await asking.refuse(ANN) == NO_SUCH_RECIPIENT


async def test_an_unknown_recipient_that_is_made_is_found_at_the_refresh(asking: Asking) -> None:
    await asking.refuse(EVE)
    asking.clock.jump(4 * 3600)
    asking.hop.known.add(EVE)
    assert await asking.refuse(EVE) == NO_SUCH_RECIPIENT
    await until(lambda: asking.results() == ["unknown", "known"])
    assert await asking.refuse(EVE) is None


@pytest.mark.parametrize("days", [8, 32, 400])
async def test_an_old_positive_answer_wins_over_trouble(asking: Asking, days: int) -> None:
    await asking.refuse(ANN, DEFER)
    asking.clock.jump(days * DAY)
    asking.hop.trouble = True
    assert await asking.refuse(ANN, DEFER) is None


async def test_a_bug_in_asking_is_told_and_refuses_nobody(asking: Asking) -> None:
    asking.hop.broken = True
    assert await asking.refuse(EVE) is None
    [fact] = asking.facts
    assert (fact.event, fact.level, fact.values["error"]) == ("decide.trouble", "error", "RuntimeError")


async def test_closing_ends_what_is_under_way(asking: Asking) -> None:
    asking.hop.open.clear()
    session = asyncio.create_task(asking.refuse(EVE))
    await until(lambda: bool(asking.hop.asked))
    await asking.verification.close()
    with pytest.raises(asyncio.CancelledError):
        await session
