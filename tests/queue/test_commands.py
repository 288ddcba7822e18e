"""What an operator asks of the queue, on a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.fact import Fact
from relay.queue.commands import BadRequest, Commands
from relay.queue.entry import Settlement
from relay.queue.states import Move, State
from relay.queue.store import Store
from tests.support.clock import JumpingClock
from tests.support.delivery import PLAIN
from tests.support.queued import DAY, HOUR, opened, put, waiting

GIVE_UP = 5 * DAY


class Operator:
    """Commands on a queue, with what the worker was told and the facts."""

    def __init__(self, store: Store, clock: JumpingClock) -> None:
        self.store, self.clock = store, clock
        self.facts: list[Fact] = []
        self.worker: list[str] = []
        self.commands = Commands(
            store,
            extend=lambda: GIVE_UP,
            wake=lambda: self.worker.append("wake"),
            flush=lambda hop: self.worker.append(f"flush {hop}"),
            record=self.facts.append,
        )

    async def put(self, *recipients: str, **given: Any) -> str:
        """A message with recipients such as "bob@example.net", or "bob@example.net/other" for another hop."""
        made = [waiting(*one.split("/"), due=self.clock.time() + HOUR) for one in recipients]
        return await put(self.store, self.clock, *made, **given)

    async def __call__(self, verb: str, **words: Any) -> dict[str, Any]:
        answer = await self.commands.answer({"verb": verb, **words})
        assert answer.content is None
        return dict(answer.values)

    async def ids(self, **selection: Any) -> list[str]:
        return [one["id"] for one in (await self("list", selection=selection))["messages"]]

    async def states(self, id: str) -> dict[str, str]:
        message = (await self("show", id=id))["message"]
        return {one["address"]: one["state"] for one in message["recipients"]}


@pytest.fixture
async def operator(tmp_path: Path, no_stray_tasks_or_descriptors: None) -> AsyncIterator[Operator]:
    clock = JumpingClock()
    async with opened(tmp_path, clock) as store:
        yield Operator(store, clock)


async def test_a_message_is_shown_with_all_that_is_known_of_it(operator: Operator) -> None:
    id = await operator.put("bob@example.net", age=HOUR)
    now = operator.clock.time()
    assert await operator("show", id=id) == {
        "message": {
            **{"id": id, "arrived": now - HOUR, "size": len(PLAIN), "reverse_path": "ann@example.org"},
            **{"listener": "in", "ip": "192.0.2.1", "helo": "app.example.org", "login": "ann", "envid": ""},
            "reportable": True,
            "recipients": [
                {
                    **{"address": "bob@example.net", "hop": "next", "state": "waiting", "attempts": 1, "crashes": 0},
                    **{"last_attempt": now + HOUR - 300, "next_attempt": now + HOUR, "expires": now + HOUR + DAY},
                    **{"warn": None, "notify": "", "reply": "451 4.3.0 try later", "host": "", "cause": ""},
                    "report": None,
                }
            ],
        }
    }


async def test_what_is_not_there_is_null(operator: Operator) -> None:
    assert await operator("show", id="0000000000000000") == {"message": None}
    assert await operator("source", id="0000000000000000") == {"size": None}


async def test_the_source_is_every_octet(operator: Operator) -> None:
    content = b"Subject: x\r\n\r\n" + bytes(range(256)) * 4000
    id = await operator.put("bob@example.net", content=content)
    answer = await operator.commands.answer({"verb": "source", "id": id})
    assert (answer.values, answer.content) == ({"size": len(content)}, content)


async def test_a_list_is_oldest_first_and_goes_on_behind_an_id(operator: Operator) -> None:
    ids = [await operator.put("bob@example.net", age=age) for age in (3 * HOUR, 2 * HOUR, HOUR)]
    assert await operator.ids() == ids
    page = await operator("list", limit=2)
    assert [one["id"] for one in page["messages"]] == ids[:2]
    page = await operator("list", limit=2, after=ids[1])
    assert [one["id"] for one in page["messages"]] == ids[2:]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({}, "abc"),
        ({"sender": "ann@example.org"}, "ab"),
        ({"sender": "ANN@Example.Org"}, "ab"),
        ({"sender": "@example.org"}, "ab"),
        ({"sender": "@ample.org"}, ""),
        ({"sender": "<>"}, "c"),
        ({"recipient": "eve@example.com"}, "bc"),
        ({"recipient": "@example.net"}, "ab"),
        ({"recipient": "@example.net", "hop": "other"}, ""),
        ({"hop": "other"}, "bc"),
        ({"state": "waiting"}, "abc"),
        ({"state": "held"}, ""),
        ({"older": 2 * HOUR}, "ab"),
        ({"older": 2.5 * HOUR}, "a"),
        ({"sender": "@example.org", "older": 2 * HOUR, "hop": "other"}, "b"),
        ({"sender": "%@example.org"}, ""),
        ({"sender": "@%"}, ""),
        ({"sender": "'; DROP TABLE message; --"}, ""),
    ],
)
async def test_all_conditions_must_hold(operator: Operator, selection: dict[str, Any], expected: str) -> None:
    names = {
        await operator.put("bob@example.net", age=3 * HOUR): "a",
        await operator.put("bob@example.net", "eve@example.com/other", age=2 * HOUR): "b",
        await operator.put("eve@example.com/other", sender=None, age=HOUR): "c",
    }
    assert "".join(names[id] for id in await operator.ids(**selection)) == expected


async def test_a_list_shows_those_recipients_that_are_meant(operator: Operator) -> None:
    await operator.put("bob@example.net", "eve@example.com/other")
    (message,) = (await operator("list", selection={"hop": "other"}))["messages"]
    assert [one["address"] for one in message["recipients"]] == ["eve@example.com"]


async def test_hold_release_and_drop_go_their_way_and_leave_a_trace(operator: Operator) -> None:
    id = await operator.put("bob@example.net", "eve@example.com/other")
    assert await operator("hold", selection={"ids": [id], "hop": "next"}) == {
        **{"recipients": 1, "messages": 1, "others": {}},
    }
    assert await operator.states(id) == {"bob@example.net": "held", "eve@example.com": "waiting"}
    assert (await operator("drop", selection={"recipient": "eve@example.com"}))["recipients"] == 1
    operator.clock.jump(3 * DAY)
    assert (await operator("release", selection={"ids": [id]}))["recipients"] == 1
    message = (await operator("show", id=id))["message"]
    (bob,) = [one for one in message["recipients"] if one["state"] != "done"]
    now = operator.clock.time()
    assert (bob["state"], bob["next_attempt"], bob["expires"], bob["cause"]) == ("waiting", now, now + GIVE_UP, "")
    assert [(one.event, one.id, one.values) for one in operator.facts] == [
        ("queue.held", id, {"to": ["bob@example.net"], "cause": "operator"}),
        ("queue.dropped", id, {"to": ["eve@example.com"], "cause": "operator"}),
        ("queue.released", id, {"to": ["bob@example.net"], "cause": "operator"}),
    ]
    assert (await operator("drop", all=True))["recipients"] == 1
    assert await operator("show", id=id) == {"message": None}  # it went with the last of its recipients
    assert operator.worker == ["wake"]


async def test_a_released_message_keeps_the_longer_of_its_times(operator: Operator) -> None:
    made = replace(waiting("bob@example.net", due=operator.clock.time() + 30 * DAY), state=State.HELD)
    id = await put(operator.store, operator.clock, made)
    await operator("release", selection={"ids": [id]})
    message = (await operator("show", id=id))["message"]
    assert message["recipients"][0]["expires"] == made.expires


async def test_retry_makes_it_due_and_its_hop_is_asked_again(operator: Operator) -> None:
    one, other = await operator.put("bob@example.net"), await operator.put("eve@example.com/other")
    assert (await operator("retry", selection={"ids": [one]}))["messages"] == 1
    due = {id: (await operator("show", id=id))["message"]["recipients"][0]["next_attempt"] for id in (one, other)}
    assert due == {one: operator.clock.time(), other: operator.clock.time() + HOUR}
    assert operator.worker == ["flush next", "wake"]
    assert operator.facts == []  # the attempt tells


@pytest.mark.parametrize(
    ("hop", "messages", "worker"),
    [
        ("", 2, ["flush next", "flush other", "wake"]),
        ("other", 1, ["flush other", "wake"]),
        ("third", 0, ["flush third", "wake"]),  # nothing of ours waits, yet it is well again
    ],
)
async def test_flush(operator: Operator, hop: str, messages: int, worker: list[str]) -> None:
    await operator.put("bob@example.net")
    await operator.put("eve@example.com/other")
    assert (await operator("flush", hop=hop))["messages"] == messages
    assert operator.worker == worker


async def test_what_is_in_an_attempt_is_left_alone_and_counted(operator: Operator) -> None:
    id = await operator.put("bob@example.net", "eve@example.com/other")
    await operator("retry", all=True)
    (delivery,) = await operator.store.claim("next", 10)
    for verb in ("hold", "drop", "retry"):
        answer = await operator(verb, selection={"ids": [id], "hop": "next"})
        assert answer == {"recipients": 0, "messages": 0, "others": {"active": 1}}
    assert await operator("release", all=True) == {
        **{"recipients": 0, "messages": 0, "others": {"active": 1, "waiting": 1}},
    }
    settlements = [Settlement(one.number, Move.DEFERRED, 2, HOUR) for one in delivery.queued.recipients]
    assert await operator.store.settle(delivery, settlements) == frozenset()


async def test_stats_count_by_hop_and_state(operator: Operator) -> None:
    first = await operator.put("bob@example.net", "bo@example.net", "eve@example.com/other", age=HOUR)
    await operator.put("bob@example.net", age=60.0)
    await operator("hold", selection={"hop": "other"})
    now = operator.clock.time()
    waiting_, held = (
        {"hop": "next", "state": "waiting", "recipients": 3, "messages": 2, "oldest": now - HOUR},
        {"hop": "other", "state": "held", "recipients": 1, "messages": 1, "oldest": now - HOUR},
    )
    assert await operator("stats") == {"depth": [waiting_, held]}
    assert await operator("stats", selection={"state": "held"}) == {"depth": [held]}
    assert (await operator("stats", selection={"ids": [first], "hop": "next"}))["depth"][0]["recipients"] == 2


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"verb": "explode"},
        {"verb": ["list"]},
        {"verb": "drop"},
        {"verb": "drop", "selection": {}},
        {"verb": "drop", "all": "yes"},
        {"verb": "drop", "all": True, "selection": {"hop": "next"}},
        {"verb": "drop", "all": True, "dry_run": True},  # a word of a later relay
        {"verb": "drop", "selection": {"colour": "red"}},
        {"verb": "drop", "selection": {"state": "done"}},
        {"verb": "drop", "selection": {"state": ["held"]}},
        {"verb": "drop", "selection": {"older": "1 h"}},
        {"verb": "drop", "selection": {"older": True}},
        {"verb": "drop", "selection": {"ids": "0000000000000000"}},
        {"verb": "drop", "selection": {"ids": [1]}},
        {"verb": "drop", "selection": {"sender": None}},
        {"verb": "drop", "selection": ["ids"]},
        {"verb": "flush", "hop": 3},
        {"verb": "list", "limit": 0},
        {"verb": "list", "limit": 100_000},
        {"verb": "list", "limit": True},
        {"verb": "show", "id": {}},
    ],
)
async def test_what_is_not_understood_does_nothing(operator: Operator, request_: dict[str, Any]) -> None:
    id = await operator.put("bob@example.net")
    with pytest.raises(BadRequest):
        await operator.commands.answer(request_)
    assert await operator.ids() == [id]
    assert (operator.facts, operator.worker) == ([], [])


async def test_many_are_moved_in_more_than_one_transaction(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.queue.store.MOVED_AT_ONCE", 3)
    ids = [await operator.put("bob@example.net", "eve@example.com", age=HOUR - at) for at in range(8)]
    assert await operator("hold", all=True) == {"recipients": 16, "messages": 8, "others": {}}
    assert [one.id for one in operator.facts] == ids
    assert await operator.ids(state="held") == ids
