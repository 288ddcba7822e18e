"""`relay queue` and a relay as their users run them: a hop that is down, a message on hold, a stop in between."""

from __future__ import annotations

import asyncio
import json
import smtplib
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.flows.test_queue_settling import ANN, BOB, SENDER, tables
from tests.support.fake_hop import FakeHop
from tests.support.peers import free_port, wait_until
from tests.support.relay_process import RelayProcess, running_relay


async def relay_queue(relay: RelayProcess, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "relay", "queue", *arguments, "-c", str(relay.config)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout


async def listed(relay: RelayProcess, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(await relay_queue(relay, "list", "--json", *arguments))
    return found


def send(relay: RelayProcess, recipient: str) -> str:
    """The id of the message, from the relay's answer to its final dot."""
    with smtplib.SMTP("127.0.0.1", relay.ports["in"]) as client:
        client.ehlo("client.test")
        client.mail(SENDER)
        client.rcpt(recipient)
        code, text = client.data(f"From: {SENDER}\r\nSubject: lunch\r\n\r\nhello {recipient}\r\n".encode())
        assert code == 250
        return text.decode().rpartition(" ")[2]


async def test_from_a_hop_that_is_down_over_a_stop_to_delivery(tmp_path: Path) -> None:
    port = free_port()
    settings = tables(port) | {"queue": {"first_retry": "1 h"}}  # nothing happens by itself
    with running_relay(tmp_path, settings) as relay:
        ann, bob = send(relay, ANN), send(relay, BOB)
        tried = 'relay_queue_attempts_total{hop="out",result="deferred"} 2.0'
        wait_until("both were tried", lambda: tried in relay.get("/metrics")[1])
        assert [(message["id"], message["recipients"][0]["attempts"]) for message in await listed(relay)] == [
            (ann, 1),
            (bob, 1),
        ]
        assert await relay_queue(relay, "hold", ann) == "1 recipient of 1 message held\n"
        assert f"queue.held id={ann}" in relay.log
    # The relay is stopped.
    (held,) = await listed(relay, "--state", "held")
    assert (held["id"], held["recipients"][0]["cause"]) == (ann, "operator")
    assert f"hello {ANN}" in await relay_queue(relay, "show", ann, "--source")
    with running_relay(tmp_path, settings) as relay:
        async with FakeHop(port=port) as fake:
            assert await relay_queue(relay, "flush", "out") == "1 recipient of 1 message due now\n"
            await fake.reached("dot")
            assert await relay_queue(relay, "release", ann) == "1 recipient of 1 message released\n"
            await fake.reached("dot", 2)
        assert [mail.rpartition(b"hello ")[2] for mail in fake.accepted] == [
            f"{one}\r\n".encode() for one in (BOB, ANN)
        ]
        wait_until("the queue is empty", lambda: relay.log.count(" queue.delivered ") == 2)
        assert await listed(relay) == []
        await relay_queue(relay, "show", ann, code=1)
