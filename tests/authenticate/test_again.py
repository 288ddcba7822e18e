"""A check done again: the same as long as DNS says the same, and not a moment longer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from relay.authenticate import again as module
from relay.authenticate.again import again
from relay.authenticate.check import authenticate
from relay.authenticate.spf import check_helo
from relay.errors import DnsTrouble, NoSuchName
from relay.resolver import Budget, Questions, Resolver
from tests.support.clock import JumpingClock
from tests.support.dns import DnsServer, dns_server

IP, NAME = "192.0.2.1", "mail.example.org"
PASS: dict[str, list[Any]] = {NAME: [{"TXT": "v=spf1 a -all", "TTL": 60}, {"A": IP, "TTL": 60}]}
FAIL: dict[str, list[Any]] = {NAME: [{"TXT": "v=spf1 -all", "TTL": 60}]}


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_kept", {})


@asynccontextmanager
async def dns(zone: dict[str, list[Any]], clock: JumpingClock) -> AsyncIterator[tuple[DnsServer, Resolver]]:
    async with dns_server(zone) as server:
        resolver = Resolver([server.nameserver], timeout=2.0, clock=clock)
        try:
            yield server, resolver
        finally:
            await resolver.close()


class Counted:
    """A check that asks for TXT records at `names`, and counts how often it is worked out."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self, names: tuple[str, ...], resolver: Questions) -> int:
        self.times += 1
        for name in names:
            with suppress(NoSuchName, DnsTrouble):
                await resolver.txt(name)
        return self.times


async def test_a_check_is_worked_out_once_while_dns_says_the_same() -> None:
    check, clock = Counted(), JumpingClock()
    async with dns(PASS, clock) as (server, resolver):
        found = [await again(resolver.budget(), check, (NAME, "no.example.org")) for _ in range(5)]
        assert len(server.questions) == 2
    assert found == [1, 2, 2, 2, 2]  # the first one had to wait for DNS, so that its times are its own


async def test_what_is_asked_again_is_told_again_without_its_times() -> None:
    clock = JumpingClock()
    async with dns(PASS, clock) as (_, resolver):
        budgets: list[Budget] = []
        for _ in range(3):
            budgets.append(resolver.budget())
            assert (await again(budgets[-1], check_helo, IP, NAME)).result == "pass"
    assert [[step.what for step in budget.steps] for budget in budgets] == [[f"TXT {NAME}", f"A {NAME}"]] * 3
    assert [budget.queries for budget in budgets] == [2, 0, 0]
    assert [step.seconds for step in budgets[-1].steps] == [0.0, 0.0]


async def test_an_answer_past_its_time_is_no_answer() -> None:
    clock = JumpingClock()
    async with dns(PASS, clock) as (server, resolver):
        for _ in range(3):
            assert (await again(resolver.budget(), check_helo, IP, NAME)).result == "pass"
        server.serve(FAIL)
        clock.jump(59)
        assert (await again(resolver.budget(), check_helo, IP, NAME)).result == "pass"
        clock.jump(2)
        for _ in range(3):
            assert (await again(resolver.budget(), check_helo, IP, NAME)).result == "fail"


async def test_dns_trouble_is_met_each_time() -> None:
    check, clock = Counted(), JumpingClock()
    async with dns({NAME: ["SERVFAIL"]}, clock) as (server, resolver):
        for times in (1, 2, 3):
            assert await again(resolver.budget(), check, (NAME,)) == times
        assert len(server.questions) >= 3


async def test_other_givens_are_another_check() -> None:
    clock = JumpingClock()
    async with dns(PASS, clock) as (_, resolver):
        for _ in range(3):
            assert (await again(resolver.budget(), check_helo, IP, NAME)).result == "pass"
            assert (await again(resolver.budget(), check_helo, "192.0.2.2", NAME)).result == "fail"
            assert (await again(resolver.budget(), check_helo, IP, "no.example.org")).result == "none"


async def test_the_results_of_a_message_are_not_changed_by_those_after_it() -> None:
    """The tree walk is shared; what is found on it about one message's signers is that message's."""
    clock = JumpingClock()
    zone = {**PASS, "_dmarc.example.org": [{"TXT": "v=DMARC1; p=reject"}]}
    async with dns(zone, clock) as (_, resolver):
        message = b"From: ann@example.org\r\n\r\nhello\r\n"
        senders = ["ann@example.org", "ann@mail.example.org", "eve@mail.example.org", "ann@mail.example.org"]
        for _ in range(2):  # until DNS is asked no more
            for sender in senders:
                await authenticate(message, IP, NAME, sender, resolver)
        found = [await authenticate(message, IP, NAME, sender, resolver) for sender in senders]
        assert [one.queries for one in found] == [0] * len(senders)
        assert [one.dmarc.result for one in found] == ["fail", "pass", "pass", "pass"]
        traces = [[step.what for step in one.dmarc.trace] for one in found]
    assert traces[1] == traces[2] == traces[3]
    assert traces[0] == [what for what in traces[1] if what != f"spf {NAME}" and f".{NAME}" not in what]


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 2)
    check, clock = Counted(), JumpingClock()
    zone = {f"{n}.example.org": [{"TXT": "x"}] for n in range(3)} | {"long.example.org": [{"TXT": "x" * 9000}]}
    async with dns(zone, clock) as (_, resolver):

        async def times(name: str) -> int:
            """How often `check` is worked out, of three times that are no first ones."""
            before = check.times
            for _ in range(3):
                await again(resolver.budget(), check, (f"{name}.example.org",))
            return check.times - before

        for name in ("0", "1", "2", "long"):
            await again(resolver.budget(), check, (f"{name}.example.org",))
        assert [await times(name) for name in ("0", "1", "0", "2", "1", "0")] == [1, 1, 0, 1, 0, 1]
        assert await times("long") == 3
    assert len(module._kept) == 2
