"""Five times as many clients as there is room for: who is above the cap hears 421, and what was taken is there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.mail import make_mail
from tests.support.recorder import Recorder, running_recorder
from tests.support.relay_process import RelayProcess, running_relay
from tests.support.smtp_client import SmtpClient, code, smtp_client

pytestmark = pytest.mark.xdist_group("overload")

CAP, OFFERED, ROUNDS = 40, 200, 10


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with running_recorder() as recorder:
        yield recorder


@pytest.fixture(scope="module")
def relay(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    tables = {
        "listener": {"gateway": {"role": "gateway", "domains": ["ours.example"]}},
        "hop": {"server": {"host": ["127.0.0.1"], "port": recorder.port, "tls": "none"}},
        "route": {"all": {"hop": "server"}},
        "limit": {"connections": CAP},
        "log": {"level": "info"},
    }
    with running_relay(tmp_path_factory.mktemp("relay"), tables) as relay:
        yield relay


async def send(client: SmtpClient, token: str, content: bytes) -> str:
    """The reply that decided over the mail."""
    for line in (b"EHLO client.example", b"MAIL FROM:<ann@client.example>", b"RCPT TO:<bob@ours.example>", b"DATA"):
        reply = await client.say(line)
        if reply[:1] not in "23":
            return reply
    client.send(content + b".\r\n")
    return await client.read()


class Crowd:
    """replies: how often each first code was heard. acknowledged: the tokens of the mails answered 250."""

    def __init__(self, port: int) -> None:
        self._address = "127.0.0.1", port
        self.replies: Counter[str] = Counter()
        self.acknowledged: list[str] = []
        self.peak = 0  # clients inside at once

    async def rush(self) -> None:
        """All clients connect, and only when each has heard his greeting do those who are in send."""
        waiting, all_greeted, inside = OFFERED, asyncio.Event(), 0

        async def one() -> None:
            nonlocal waiting, inside
            async with smtp_client(self._address) as client:
                greeting = await client.read()
                waiting -= 1
                inside += greeting.startswith("220")
                if not waiting:
                    all_greeted.set()
                await all_greeted.wait()
                if not greeting.startswith("220"):
                    self.replies[greeting[:3]] += 1
                    return
                mail = make_mail("ann@client.example", "bob@ours.example", b"hello\r\n")
                reply = await send(client, mail.token, mail.content)
                self.replies[reply[:3]] += 1
                if reply.startswith("250"):
                    self.acknowledged.append(mail.token)
                await client.say(b"QUIT")

        async with asyncio.TaskGroup() as group:
            for _ in range(OFFERED):
                group.create_task(one())
        self.peak = max(self.peak, inside)


async def test_an_overload_is_answered_421_and_loses_nothing(relay: RelayProcess, recorder: Recorder) -> None:
    crowd = Crowd(relay.ports["gateway"])
    for _ in range(ROUNDS):
        await crowd.rush()
    assert set(crowd.replies) <= {"250", "421", "452"}, crowd.replies
    assert 0 < crowd.peak <= CAP
    assert crowd.replies["421"] >= ROUNDS * (OFFERED - CAP)
    arrived = b"".join(transaction.content for transaction in recorder.transactions)
    assert all(arrived.count(token.encode()) == 2 for token in crowd.acknowledged)  # Message-ID and X-Token

    # Afterwards all is as before: there is room for as many as the cap says, and each is served.
    again = [make_mail("ann@client.example", "bob@ours.example", b"hello\r\n") for _ in range(CAP)]

    async def calm(port: int) -> list[str]:
        async with asyncio.TaskGroup() as group:
            sending = [group.create_task(one_mail(port, mail.token, mail.content)) for mail in again]
        return [task.result() for task in sending]

    assert [code(reply) for reply in await calm(relay.ports["gateway"])] == ["250 2.0.0"] * CAP


async def one_mail(port: int, token: str, content: bytes) -> str:
    async with smtp_client(("127.0.0.1", port)) as client:
        assert (await client.read()).startswith("220")
        return await send(client, token, content)
