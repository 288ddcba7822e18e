"""Clients that vanish behind their dot while the queue commits: what is on disk is delivered, without a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.test_queue_settling import OK, SENDER, tables
from tests.support.fake_hop import FakeHop
from tests.support.queue_file import emptied
from tests.support.running import running
from tests.support.smtp_client import smtp_client

MAILS = 30


@pytest.mark.parametrize("leaves", ["reset", "close", "half_close"])
async def test_a_client_that_vanishes_behind_its_dot(leaves: str, tmp_path: Path) -> None:
    async with FakeHop({"dot": [OK]}) as fake, running(tables(fake.port), tmp_path) as relay:
        for number in range(MAILS):
            async with smtp_client(("127.0.0.1", relay.port("in"))) as client:
                await client.read()
                for line in ("EHLO client.test", f"MAIL FROM:<{SENDER}>", f"RCPT TO:<u{number}@theirs.test>", "DATA"):
                    await client.say(line.encode())
                client.send(b"From: sue@ours.test\r\nSubject: %d\r\n\r\nhello\r\n.\r\n" % number)
                if leaves == "close":
                    continue
                getattr(client, leaves)()
                if leaves == "half_close":
                    assert (await client.read()).startswith("250 ")
        while len(relay.of("pipeline.answered")) < MAILS:
            await relay.changed()
        assert await emptied(tmp_path) == {}
    assert len(fake.accepted) == len(relay.of("queue.kept"))
