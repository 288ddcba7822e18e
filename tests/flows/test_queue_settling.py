"""A hop that answers for each recipient (R10): each is settled by his own answer, one report tells of all failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_hop import Close, FakeHop, Reply, Script
from tests.support.hostile_hop import read_report
from tests.support.queue_file import emptied
from tests.support.running import Running, running
from tests.support.transcript import play

OK, FULL, NOBODY = Reply("250 2.0.0 yes"), Reply("452 4.2.2 full"), Reply("550 5.1.1 nobody")
SENDER = "sue@ours.test"
ANN, BOB, CAT = "ann@theirs.test", "bob@theirs.test", "cat@theirs.test"


def tables(port: int, **hop: Any) -> dict[str, Any]:
    return {
        "listener": {"in": {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["*"]}},
        "route": {"all": {"hop": "out", "mode": "queue"}},
        "hop": {"out": {"host": ["127.0.0.1"], "port": port, "tls": "none", **hop}},
        "queue": {"first_retry": "50ms", "max_retry": "200ms"},
    }


async def submit(relay: Running, *recipients: str, sender: str = SENDER, mail: str = "", rcpt: str = "") -> None:
    """One message; `mail` and `rcpt` are parameters behind the addresses."""
    rcpts = "".join(f"C: RCPT TO:<{one}>{rcpt}\nS: 250 *\n" for one in recipients)
    await play(
        relay.port("in"),
        f"S: 220 *\nC: EHLO client.test\nS: 250 *\nC: MAIL FROM:<{sender}>{mail}\nS: 250 *\n{rcpts}C: DATA\nS: 354 *\n"
        "C: X-Submission: one\nC: From: sue@ours.test\nC: Subject: lunch\nC:\nC: hello\nC: .\n"
        "S: 250 2.0.0 queued as *\nC: QUIT\nS: 221 *\n",
    )


def transactions(fake: FakeHop) -> list[tuple[str, list[str]]]:
    """Reverse-path and recipients of each that came as far as content."""
    found: list[tuple[str, list[str]]] = []
    for session in fake.sessions:
        sender, names = "", []
        for command in session.commands:
            verb, _, argument = command.decode().partition(":")
            address = argument.partition(">")[0].removeprefix("<")
            if verb == "MAIL FROM":
                sender, names = address, []
            elif verb == "RCPT TO":
                names.append(address)
            elif verb == "DATA":
                found.append((sender, names))
    return found


def reports(fake: FakeHop) -> list[tuple[tuple[str, str], ...]]:
    """Whom each report is about."""
    return [
        read_report(content)[1]
        for content in fake.accepted
        if b"\r\nX-Submission: " not in content.partition(b"\r\n\r\n")[0]
    ]


async def test_each_recipient_is_settled_by_his_own_answer_to_rcpt(tmp_path: Path) -> None:
    async with FakeHop({"rcpt": [OK, FULL, NOBODY]}) as fake, running(tables(fake.port), tmp_path) as relay:
        await submit(relay, ANN, BOB, CAT)
        assert await emptied(tmp_path) == {}
    sent = transactions(fake)
    # A report about cat, and bob alone at the retry: in whatever order.
    assert sent[0] == (SENDER, [ANN, BOB, CAT])
    assert sorted(sent[1:]) == [("", [SENDER]), (SENDER, [BOB])]
    assert reports(fake) == [(("one", CAT),)]
    assert [fact.values["to"] for fact in relay.of("queue.deferred")] == [[BOB]]
    assert len(relay.of("queue.reported")) == 1


async def test_each_recipient_is_settled_by_his_own_answer_to_the_dot(tmp_path: Path) -> None:
    dots = [OK, FULL, NOBODY]
    async with (
        FakeHop({"dot": dots}, lmtp=True) as fake,
        running(tables(fake.port, kind="lmtp"), tmp_path) as relay,
    ):
        await submit(relay, ANN, BOB, CAT)
        assert await emptied(tmp_path) == {}
    sent = transactions(fake)
    assert sent[0] == (SENDER, [ANN, BOB, CAT])
    assert sorted(sent[1:]) == [("", [SENDER]), (SENDER, [BOB])]
    assert reports(fake) == [(("one", CAT),)]


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "dot"])
async def test_a_4xx_anywhere_is_tried_again_and_nobody_is_told(stage: str, tmp_path: Path) -> None:
    async with FakeHop({stage: [FULL, FULL]}) as fake, running(tables(fake.port), tmp_path) as relay:
        await submit(relay, ANN)
        assert await emptied(tmp_path) == {}
    assert len(fake.accepted) == 1
    assert [fact.values["attempts"] for fact in relay.of("queue.deferred")] == [1, 2]
    assert relay.of("queue.reported") == []


@pytest.mark.parametrize("stage", ["mail", "data", "dot"])
async def test_a_5xx_for_all_is_told_in_one_report(stage: str, tmp_path: Path) -> None:
    async with FakeHop({stage: [NOBODY]}) as fake, running(tables(fake.port), tmp_path) as relay:
        await submit(relay, ANN, BOB)
        assert await emptied(tmp_path) == {}
    assert reports(fake) == [(("one", ANN), ("one", BOB))]
    assert len(fake.accepted) == 1
    assert relay.of("queue.deferred") == []


async def test_whoever_wants_no_report_gets_none(tmp_path: Path) -> None:
    script: Script = {"rcpt": [NOBODY]}
    async with (
        FakeHop(script, extensions=("PIPELINING", "DSN", "8BITMIME")) as fake,
        running(tables(fake.port), tmp_path) as relay,
    ):
        await submit(relay, ANN, rcpt=" NOTIFY=NEVER")
        assert await emptied(tmp_path) == {}
    assert fake.accepted == []
    assert relay.of("queue.reported") == []


async def test_a_cut_behind_the_dot_is_a_duplicate_that_the_log_explains(tmp_path: Path) -> None:
    async with FakeHop({"dot": [Close()]}) as fake, running(tables(fake.port), tmp_path) as relay:
        await submit(relay, ANN)
        assert await emptied(tmp_path) == {}
    assert [recipients for _, recipients in transactions(fake)] == [[ANN], [ANN]]
    (doubt,) = [fact for fact in relay.facts if "may_duplicate" in fact.values]
    assert (doubt.event, doubt.values["to"]) == ("forward.ambiguous", [ANN])
