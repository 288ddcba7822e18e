"""The operator's socket: who may open it, what it answers, and what no client can do to it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.errors import ConfigError
from relay.fact import Fact
from relay.queue import control
from relay.queue.commands import Answer, BadRequest, Commands
from relay.queue.control import SOCKET, Control, ControlError, ask
from relay.queue.engine import Unavailable

PATIENCE = 20.0
CONTENT = bytes(range(256)) * 4096  # four pieces


class Echo(Commands):
    """Answers with what it was asked, or as the verb says."""

    def __init__(self) -> None:
        self.waiting, self.go_on = asyncio.Event(), asyncio.Event()

    async def answer(self, request: Mapping[str, object]) -> Answer:
        match request.get("verb"):
            case "bad":
                raise BadRequest("that is bad")
            case "gone":
                raise Unavailable("the database is locked")
            case "bug":
                raise LookupError("ours")
            case "source":
                return Answer({"size": len(CONTENT)}, CONTENT)
            case "wait":
                self.waiting.set()
                await self.go_on.wait()
        return Answer({"asked": dict(request)})


class Running:
    def __init__(self, path: Path) -> None:
        self.path, self.commands, self.facts = path, Echo(), list[Fact]()
        self.control = Control(path, self.commands, self.facts.append)

    async def ask(self, request: Mapping[str, object]) -> Answer | None:
        return await asyncio.to_thread(ask, self.path, request, PATIENCE)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Running]:
    found = Running(path)
    await found.control.start()
    try:
        yield found
    finally:
        await found.control.stop()


async def raw(path: Path, line: bytes) -> bytes:
    """All that comes back for one line."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(line)
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_what_is_asked_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path / SOCKET) as relay:
        request = {"verb": "list", "selection": {"sender": "jörg@example.org"}}
        answer = await relay.ask(request)
        assert answer is not None and answer.values == {"asked": request}
        assert answer.content is None


async def test_behind_the_answer_comes_the_content(tmp_path: Path) -> None:
    async with running(tmp_path / SOCKET) as relay:
        answer = await relay.ask({"verb": "source"})
        assert answer is not None and answer.content == CONTENT


async def test_only_the_user_of_the_relay_can_open_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with running(tmp_path / "data" / SOCKET) as relay:
            assert stat.S_IMODE(relay.path.stat().st_mode) == 0o600
            assert stat.S_IMODE(relay.path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


async def test_a_relay_that_was_killed_leaves_a_socket_that_nobody_answers(tmp_path: Path) -> None:
    path = tmp_path / SOCKET
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.is_socket()
    assert ask(path, {}) is None
    async with running(path) as relay:
        assert await relay.ask({"verb": "x"})
    assert not path.exists()
    assert ask(path, {}) is None
    assert ask(tmp_path / "no" / "folder", {}) is None


async def test_a_second_relay_does_not_take_the_socket_away(tmp_path: Path) -> None:
    async with running(tmp_path / SOCKET) as relay:
        with pytest.raises(ConfigError, match="another relay listens there"):
            await Control(relay.path, relay.commands, relay.facts.append).start()
        assert await relay.ask({"verb": "x"})


async def test_a_path_that_is_too_long_for_a_socket_will_do(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 100) / ("e" * 100) / SOCKET
    async with running(path) as relay:
        assert path.is_socket()
        assert await relay.ask({"verb": "x"})
    assert not path.exists()


async def test_a_folder_that_cannot_be_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(ConfigError, match="relay queue"):
        await Control(tmp_path / "data" / SOCKET, Echo(), lambda fact: None).start()


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"GET / HTTP/1.1\r\n",
        b"[1, 2]\n",
        b'"list"\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"verb": "bad"}\n',
    ],
)
async def test_what_is_no_request_hears_so(tmp_path: Path, line: bytes) -> None:
    async with running(tmp_path / SOCKET) as relay:
        assert json.loads(await raw(relay.path, line)).keys() == {"error"}
        assert await relay.ask({"verb": "x"})
        assert relay.facts == []


async def test_a_request_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_REQUEST", 1000)
    async with running(tmp_path / SOCKET) as relay:
        assert b"too long" in await raw(relay.path, b" " * 5000)
        assert await relay.ask({"verb": "x"})


@pytest.mark.parametrize(("verb", "cause"), [("gone", "the database is locked"), ("bug", "LookupError: ours")])
async def test_what_the_queue_cannot_do_is_told_here_and_in_the_log(tmp_path: Path, verb: str, cause: str) -> None:
    async with running(tmp_path / SOCKET) as relay:
        with pytest.raises(ControlError, match=cause):
            await relay.ask({"verb": verb})
        (fact,) = relay.facts
        assert (fact.event, fact.level) == ("queue.trouble", "error")
        assert cause in str(fact.values["cause"])
        assert ("traceback" in fact.values) is (verb == "bug")


async def test_a_client_that_goes_away_is_no_trouble(tmp_path: Path) -> None:
    async with running(tmp_path / SOCKET) as relay:
        _, writer = await asyncio.open_unix_connection(str(relay.path))
        writer.write(b'{"verb": "wait"}\n')
        await relay.commands.waiting.wait()
        writer.transport.abort()
        relay.commands.go_on.set()
        assert await relay.ask({"verb": "x"})
        assert relay.facts == []


async def test_a_stop_does_not_wait_for_clients(tmp_path: Path) -> None:
    async with running(tmp_path / SOCKET) as relay:
        reader, silent = await asyncio.open_unix_connection(str(relay.path))
        asking = asyncio.create_task(relay.ask({"verb": "wait"}))
        await relay.commands.waiting.wait()
        await relay.control.stop()
        with pytest.raises(ControlError, match="ended before it answered"):
            await asking
        assert await reader.read() == b""
        silent.close()
        await relay.control.stop()


def test_a_relay_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / SOCKET
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(path))
        hanging.listen()
        with pytest.raises(ControlError, match="has not answered"):
            ask(path, {"verb": "list"}, 0.05)


@pytest.mark.parametrize("answer", [b"", b'{"mess', b"null\n", b'{"size": 10}\nshort', b"3\n"])
def test_half_an_answer_is_none(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / SOCKET
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(path))
        dying.listen()

        def end() -> None:
            client, _ = dying.accept()
            with client:
                client.makefile("rb").readline()
                client.sendall(answer)

        from threading import Thread

        thread = Thread(target=end)
        thread.start()
        with pytest.raises(ControlError):
            ask(path, {"verb": "source"}, PATIENCE)
        thread.join()
