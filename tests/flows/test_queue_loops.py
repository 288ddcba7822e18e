"""Queued mail that goes in circles (R12): it ends, its sender hears of it once, and nobody hears of the report."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relay import reply as replies
from tests.support.fake_hop import FakeHop, Reply
from tests.support.peers import free_port
from tests.support.queue_file import emptied
from tests.support.running import Running, running
from tests.support.transcript import play

LIMIT, LIMIT_OWN = 10, 3
NOBODY = Reply("550 5.1.1 nobody")


def tables(hostname: str, port: int, hop: int) -> dict[str, Any]:
    return {
        "hostname": hostname,
        "listener": {"in": {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["*"], "port": port}},
        "route": {"all": {"hop": "out", "mode": "queue"}},
        "hop": {"out": {"host": ["127.0.0.1"], "port": hop, "tls": "none"}},
        "queue": {"first_retry": "50ms", "max_retry": "100ms", "give_up": "2s", "give_up_bounce": "1s"},
        "limit": {"received": LIMIT, "received_own": LIMIT_OWN},
    }


async def submit(port: int, sender: str) -> None:
    await play(
        port,
        f"S: 220 *\nC: EHLO client.test\nS: 250 *\nC: MAIL FROM:<{sender}>\nS: 250 *\n"
        "C: RCPT TO:<bob@theirs.test>\nS: 250 *\nC: DATA\nS: 354 *\n"
        "C: From: sue@ours.test\nC: Subject: round\nC:\nC: hello\nC: .\nS: 250 *\nC: QUIT\nS: 221 *\n",
    )


def reverse_paths(*relays: Running) -> list[str]:
    """Of every message that a relay has had whole."""
    return [str(fact.values["from"]) for relay in relays for fact in relay.of("pipeline.answered")]


async def test_two_relays_that_send_to_each_other(tmp_path: Path) -> None:
    """The mail goes round until one has had it LIMIT_OWN times, then its report does; of that nobody hears."""
    first, second = free_port(), free_port()
    async with (
        running(tables("a.test", first, second), tmp_path / "a") as a,
        running(tables("b.test", second, first), tmp_path / "b") as b,
    ):
        await submit(a.port("in"), "sue@ours.test")
        held = [asyncio.create_task(relay.until("queue.held")) for relay in (a, b)]
        await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        for one in held:
            one.cancel()
        await asyncio.wait(held)
        left = await emptied(tmp_path / "a") + await emptied(tmp_path / "b")
    assert left == {"held": 1}  # the report
    reported = a.of("queue.reported") + b.of("queue.reported")
    assert len(reported) == 1
    paths = reverse_paths(a, b)
    assert set(paths) == {"sue@ours.test", "<>"}
    assert all(paths.count(path) <= 2 * LIMIT_OWN + 1 for path in set(paths))
    assert {fact.values["reply"] for fact in a.of("queue.failed") + b.of("queue.failed")} == {
        str(replies.TOO_MANY_HOPS)
    }


@pytest.mark.parametrize("sender", ["sue@ours.test", ""], ids=["a mail", "a report"])
async def test_a_relay_that_finds_itself_behind_its_next_hop(sender: str, tmp_path: Path) -> None:
    """No check of the configuration has seen it. The hop gives our own name, so nothing is sent; it expires."""
    port = free_port()
    async with running(tables("a.test", port, port), tmp_path) as relay:
        await submit(port, sender)
        left = await emptied(tmp_path)
    assert left == {"held": 1}
    assert reverse_paths(relay) == [sender or "<>"]
    assert len(relay.of("queue.reported")) == (1 if sender else 0)


async def test_a_report_that_is_refused_makes_no_report(tmp_path: Path) -> None:
    async with (
        FakeHop({"mail": [NOBODY, NOBODY]}) as fake,
        running(tables("a.test", free_port(), fake.port), tmp_path) as relay,
    ):
        await submit(relay.port("in"), "sue@ours.test")
        left = await emptied(tmp_path)
    assert left == {"held": 1}
    assert [line.partition(b">")[0] for line in fake.commands if line.startswith(b"MAIL")] == [
        b"MAIL FROM:<sue@ours.test",
        b"MAIL FROM:<",
    ]
    assert len(relay.of("queue.reported")) == 1


async def test_a_client_s_own_report_that_is_refused_makes_none_either(tmp_path: Path) -> None:
    async with (
        FakeHop({"rcpt": [NOBODY]}) as fake,
        running(tables("a.test", free_port(), fake.port), tmp_path) as relay,
    ):
        await submit(relay.port("in"), "")
        left = await emptied(tmp_path)
    assert left == {"held": 1}
    assert relay.of("queue.reported") == []
    assert fake.accepted == []
