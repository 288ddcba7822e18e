"""Strangers' mail behind a queue (R13): what can be refused is refused in session; of what fails later nobody hears."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_hop import FakeHop, Reply
from tests.support.queue_file import emptied, states
from tests.support.running import Running, running
from tests.support.transcript import Dialogue

MAILS, CLIENTS = 200, 5
NOBODY = Reply("550 5.1.1 nobody")
VICTIM = "victim@theirs.test"


def tables(port: int, **more: Any) -> dict[str, Any]:
    return {
        "listener": {"in": {"role": "gateway", "domains": ["ours.test"], **more.pop("listener", {})}},
        "route": {"all": {"hop": "out", "mode": "queue"}},
        "hop": {"out": {"host": ["127.0.0.1"], "port": port, "tls": "none"}},
        "queue": {"first_retry": "50ms"},
        # Nothing can be asked: every client is a stranger whose domain has not passed.
        "policy": {"skip": []},
        "dns": {"nameservers": ["127.0.0.1:9"]},
        "timeout": {"dns": "200ms"},
        **more,
    }


async def refused(relay: Running, recipient: str, reply: str) -> None:
    """MAILS mails, each of which hears `reply` to RCPT."""

    async def client(count: int) -> None:
        dialogue = await Dialogue.open(relay.port("in"))
        await dialogue.play("S: 220 *\nC: EHLO client.test\nS: 250 *")
        for _ in range(count):
            await dialogue.play(
                f"C: MAIL FROM:<{VICTIM}>\nS: 250 *\nC: RCPT TO:<{recipient}>\nS: {reply}\n"
                "C: DATA\nS: 554 5.5.1 no valid recipients\nC: RSET\nS: 250 *"
            )
        await dialogue.play("C: QUIT\nS: 221 *")
        await dialogue.close()

    await asyncio.gather(*(client(MAILS // CLIENTS) for _ in range(CLIENTS)))


@pytest.mark.parametrize(
    ("recipient", "reply"), [("bob@ours.test", "550 5.1.1 *"), ("bob@foreign.test", "550 5.7.1 *")]
)
async def test_what_can_be_refused_is_refused_in_session(recipient: str, reply: str, tmp_path: Path) -> None:
    known = tmp_path / "recipients"
    known.write_text("ann@ours.test\n")
    async with (
        FakeHop() as fake,
        running(
            tables(fake.port, listener={"recipients": str(known)}, delay={"error": "0s"}, limit={"errors": 1000}),
            tmp_path / "data",
        ) as relay,
    ):
        await refused(relay, recipient, reply)
        assert states(tmp_path / "data") == {}
    assert fake.accepted == []
    assert relay.of("queue.reported") == []


@pytest.mark.parametrize(("unverified", "left"), [("hold", {"held": 1}), ("drop", {})])
async def test_what_fails_later_is_held_or_dropped_and_nobody_hears(
    unverified: str, left: dict[str, int], tmp_path: Path
) -> None:
    async with (
        FakeHop({"rcpt": [NOBODY]}) as fake,
        running(tables(fake.port, bounce={"unverified": unverified}), tmp_path) as relay,
    ):
        await _send(relay)
        assert await emptied(tmp_path) == left
    assert fake.accepted == []
    assert relay.of("queue.reported") == []


async def test_reports_to_strangers_have_to_be_asked_for(tmp_path: Path) -> None:
    async with (
        FakeHop({"rcpt": [NOBODY]}) as fake,
        running(tables(fake.port, bounce={"unverified": "send"}), tmp_path) as relay,
    ):
        await _send(relay)
        assert await emptied(tmp_path) == {}
    assert len(fake.accepted) == 1
    assert b"RCPT TO:<victim@theirs.test>" in fake.commands


async def _send(relay: Running) -> None:
    dialogue = await Dialogue.open(relay.port("in"))
    await dialogue.play(
        f"S: 220 *\nC: EHLO client.test\nS: 250 *\nC: MAIL FROM:<{VICTIM}>\nS: 250 *\n"
        "C: RCPT TO:<bob@ours.test>\nS: 250 *\n"
        f"C: DATA\nS: 354 *\nC: From: {VICTIM}\nC: Subject: a bill\nC:\nC: hello\nC: .\nS: 250 *\nC: QUIT\nS: 221 *"
    )
    await dialogue.close()
