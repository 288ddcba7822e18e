"""Two workers under one supervisor: what one process promises, two do; who is killed takes nothing along.

Reloads and a stop under load are in `test_reload.py`, with one process and with two.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import argon2
import pytest

from tests.support.fake_hop import FakeHop, Reply
from tests.support.mail import Mail, make_mail
from tests.support.peers import PATIENCE, free_port, listens, wait_until
from tests.support.recorder import Recorder, running_recorder
from tests.support.relay_process import RelayProcess, running_relay, to_toml
from tests.support.smtp_client import SmtpClient, code, smtp_client

pytestmark = pytest.mark.xdist_group("workers")

CLIENTS = 6
SENDER, RECIPIENT = "ann@client.example", "bob@theirs.example"
FROM, TO = f"MAIL FROM:<{SENDER}>".encode(), f"RCPT TO:<{RECIPIENT}>".encode()
STARTED = re.compile(r" supervisor\.worker_started worker=(\d) process=(\d+)")


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with running_recorder() as recorder:
        yield recorder


def tables(hop: int = 25, listener: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    submission = {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["*"]}
    return {
        "workers": 2,
        "listener": {"mail": {**submission, **(listener or {})}},
        "hop": {"server": {"host": ["127.0.0.1"], "port": hop, "tls": "none"}},
        "route": {"all": {"hop": "server", **more.pop("route", {})}},
        **more,
    }


def processes(relay: RelayProcess) -> dict[str, int]:
    """The process of each worker, as it was last started."""
    return {number: int(process) for number, process in STARTED.findall(relay.log)}


def exists(process: int) -> bool:
    """It runs, or nobody has taken notice of its end."""
    return Path(f"/proc/{process}").exists()


def workers_of(relay: RelayProcess, event: str) -> set[str]:
    """The workers that logged `event`."""
    return set(re.findall(rf" {event} .* worker=(\d)$", relay.log, re.MULTILINE))


@asynccontextmanager
async def session(relay: RelayProcess, hello: bytes = b"EHLO client.example") -> AsyncIterator[SmtpClient]:
    async with smtp_client(("127.0.0.1", relay.ports["mail"])) as client:
        await client.read()
        await client.say(hello)
        yield client


async def on_both(relay: RelayProcess, act: Callable[[SmtpClient], Any], event: str = "accept.connected") -> None:
    """Act in new sessions until each worker has had one: the kernel deals them out."""
    for _ in range(50):
        async with session(relay) as client:
            await act(client)
        if len(workers_of(relay, event)) == 2:
            return
    raise AssertionError("one worker had all of 50 sessions")


def assert_greets(port: int) -> None:
    """Of several connections at once some hear a greeting; what a stopped worker has waits."""
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(12)]
        readable, _, _ = select.select(clients, [], [], PATIENCE)
        assert readable[0].recv(3) == b"220"


class Senders:
    """Clients that send one mail after the other, over new connections; whatever fails is sent again."""

    def __init__(self, relay: RelayProcess) -> None:
        self._relay = relay
        self.acknowledged: list[Mail] = []
        self.failures = 0
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client())

    def stop(self) -> None:
        self._stopped.set()

    async def progress(self, mails: int) -> None:
        """Wait until so many more have been acknowledged."""
        until = len(self.acknowledged) + mails
        async with asyncio.timeout(PATIENCE):
            while len(self.acknowledged) < until:
                await asyncio.sleep(0.005)

    async def _client(self) -> None:
        while not self._stopped.is_set():
            mail = make_mail(SENDER, RECIPIENT, b"hello\r\n")
            try:
                async with session(self._relay) as client:
                    said = await client.converse(FROM, TO, b"DATA", mail.content + b".")
            except (OSError, TimeoutError):
                said = [""]
            if said[-1].startswith("250") and len(said) == 4:
                self.acknowledged.append(mail)
            else:
                self.failures += 1
                await asyncio.sleep(0.05)


def copies(recorder: Recorder, mail: Mail) -> int:
    return sum(f"X-Token: {mail.token}\r\n".encode() in one.content for one in recorder.transactions)


# --- in all ----------------------------------------------------------------------------------------


async def test_both_take_mail_and_one_page_counts_it(recorder: Recorder, tmp_path: Path) -> None:
    with running_relay(tmp_path, tables(recorder.port)) as relay:
        sent = 0

        async def send(client: SmtpClient) -> None:
            nonlocal sent
            mail = make_mail(SENDER, RECIPIENT, b"hello\r\n")
            assert (await client.converse(FROM, TO, b"DATA", mail.content + b"."))[-1].startswith("250")
            sent += 1

        await on_both(relay, send)
        assert len(recorder.transactions) == sent
        assert relay.metric('relay_messages_total{listener="mail",result="accepted"}') == sent
        # Its counts outlive a worker: for Prometheus a smaller number is a restart of all.
        process = processes(relay)["1"]
        os.kill(process, signal.SIGKILL)
        wait_until("another has begun", lambda: processes(relay)["1"] != process)
        assert relay.metric('relay_messages_total{listener="mail",result="accepted"}') == sent
        assert json.loads(relay.get("/readyz")[1]) == {"listeners": True, "workers": True, "ready": True}


async def test_connections_in_all(tmp_path: Path) -> None:
    most = 12
    with running_relay(tmp_path, tables(limit={"connections": most})) as relay:
        for _ in range(2):  # what has gone is counted no more
            async with AsyncExitStack() as stack:
                for _ in range(most):
                    client = await stack.enter_async_context(smtp_client(("127.0.0.1", relay.ports["mail"])))
                    assert code(await client.read()) == "220"
                async with smtp_client(("127.0.0.1", relay.ports["mail"])) as client:
                    assert code(await client.read()).startswith("421")
            wait_until("all have gone", lambda: relay.metric('relay_connections_open{listener="mail"}') == 0)
        assert workers_of(relay, "accept.connected") == {"1", "2"}


async def test_connections_of_a_dead_worker_are_not_counted(tmp_path: Path) -> None:
    most = 10
    with running_relay(tmp_path, tables(limit={"connections": most})) as relay:
        async with AsyncExitStack() as stack:
            for _ in range(most):
                client = await stack.enter_async_context(smtp_client(("127.0.0.1", relay.ports["mail"])))
                assert code(await client.read()) == "220"
            before = processes(relay)
            for process in before.values():
                os.kill(process, signal.SIGKILL)
            wait_until("others have begun", lambda: not set(before.values()) & set(processes(relay).values()))
            for _ in range(most):
                client = await stack.enter_async_context(smtp_client(("127.0.0.1", relay.ports["mail"])))
                assert code(await client.read()) == "220"


async def test_connections_of_one_address(tmp_path: Path) -> None:
    most = 12
    gateway = {"role": "gateway", "domains": ["theirs.example"], "proxy_from": ["127.0.0.1"]}
    given = tables(limit={"connections_per_ip": most})
    given["listener"] = {"mail": gateway}
    with running_relay(tmp_path, given) as relay:

        async def connect(stack: AsyncExitStack, ip: str) -> str:
            client = await stack.enter_async_context(smtp_client(("127.0.0.1", relay.ports["mail"])))
            client.send(f"PROXY TCP4 {ip} 127.0.0.1 4711 25\r\n".encode())
            return code(await client.read())[:3]

        async with AsyncExitStack() as stack:
            assert {await connect(stack, "203.0.113.7") for _ in range(most)} == {"220"}
            assert await connect(stack, "203.0.113.7") == "421"
            assert await connect(stack, "203.0.113.8") == "220"
        assert workers_of(relay, "accept.connected") == {"1", "2"}


async def test_a_rate_in_all(tmp_path: Path) -> None:
    most = 12
    with running_relay(tmp_path, tables(rate={"sender": {"per": "sender", "messages": most}})) as relay:

        async def mail() -> str:
            async with session(relay) as client:
                return code(await client.say(FROM))

        assert [await mail() for _ in range(most + 4)] == ["250 2.1.0"] * most + ["450 4.7.1"] * 4
        assert workers_of(relay, "accept.connected") == {"1", "2"}


async def test_a_lockout_in_all(tmp_path: Path) -> None:
    failures = 3
    logins = tmp_path / "logins"
    logins.write_text(f"app: {argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash('right')} *\n")
    logins.chmod(0o600)
    login = {"file": str(logins), "failures": failures}
    with running_relay(tmp_path, tables(listener={"allow_plaintext_login": True}, login=login)) as relay:
        for _ in range(failures):
            async with session(relay) as client:
                assert code(await client.say(b"AUTH PLAIN AGFwcAB3cm9uZw==")) == "535 5.7.8"  # app, wrong

        async def locked(client: SmtpClient) -> None:
            assert code(await client.say(b"AUTH PLAIN AGFwcAByaWdodA==")).startswith("454")  # app, right

        await on_both(relay, locked, "accept.login")
        # A worker that starts later has heard of it too.
        before = processes(relay)
        for process in before.values():
            os.kill(process, signal.SIGKILL)
        wait_until("others have begun", lambda: not set(before.values()) & set(processes(relay).values()))
        async with session(relay) as client:
            await locked(client)


async def test_a_retry_hears_from_any_worker_what_the_hop_said(tmp_path: Path) -> None:
    """Recipients disagree: the client hears 451, and at the retry each refusal, once."""
    for attempt in range(8):  # until the retry came to the other worker
        script = {"rcpt": [Reply("250 2.1.5 OK"), Reply("550 5.1.1 no such user")]}
        async with FakeHop(script) as hop:
            with running_relay(tmp_path / str(attempt), tables(hop.port)) as relay:
                content = make_mail(SENDER, RECIPIENT, b"hello\r\n").content + b"."
                other = b"RCPT TO:<cat@theirs.example>"
                async with session(relay) as client:
                    said = await client.converse(FROM, TO, other, b"DATA", content)
                    assert said[-1].startswith("451"), said
                async with session(relay) as client:
                    assert (await client.converse(FROM, TO, other))[1:] == ["250 2.1.5", "550 5.1.1"]
                if workers_of(relay, "accept.connected") == {"1", "2"}:
                    return
    raise AssertionError("one worker had both sessions, eight times")


# --- ends ------------------------------------------------------------------------------------------


async def test_workers_that_are_killed_lose_nothing_that_was_acknowledged(recorder: Recorder, tmp_path: Path) -> None:
    queue = {"first_retry": "1s", "max_retry": "1s"}
    given = tables(recorder.port, route={"mode": "queue"}, queue=queue, log={"level": "info"})
    with running_relay(tmp_path, given) as relay:
        senders = Senders(relay)
        sending = asyncio.create_task(senders.run())
        for number in ("1", "2", "1"):
            await senders.progress(5 * CLIENTS)
            process = processes(relay)[number]
            os.kill(process, signal.SIGKILL)
            await asyncio.to_thread(
                wait_until, "another has begun", lambda n=number, p=process: processes(relay)[n] != p
            )
        await senders.progress(5 * CLIENTS)
        senders.stop()
        await sending
        assert relay.log.count("supervisor.worker_ended") == 3
        assert relay.log.count("signal=SIGKILL") == 3
        wait_until(
            "all that was acknowledged has arrived",
            lambda: all(copies(recorder, mail) for mail in senders.acknowledged),
            60,
        )
        extra = sum(copies(recorder, mail) - 1 for mail in senders.acknowledged)
        assert extra <= relay.log.count("may_duplicate=crash")


async def test_workers_end_with_their_supervisor_and_the_next_one_waits_for_them(tmp_path: Path) -> None:
    async with FakeHop() as hop:
        hop.hold = asyncio.Event()
        given = tables(hop.port, route={"mode": "queue"})
        port, web = free_port(), free_port()
        given["listener"]["mail"]["port"] = port
        given |= {"web": {"port": web}, "data": str(tmp_path / "data"), "hostname": "relay.example"}
        config, log = tmp_path / "relay.toml", tmp_path / "log"
        config.write_text(to_toml(given))
        command = [sys.executable, "-m", "relay", "serve", "-c", str(config)]
        running: list[subprocess.Popen[bytes]] = []

        def start() -> RelayProcess:
            with log.open("ab") as output:
                running.append(subprocess.Popen(command, stderr=output, cwd=tmp_path))
            return RelayProcess(running[-1], {"mail": port}, web, log, config)

        relay = start()
        workers: list[int] = []
        try:
            await asyncio.to_thread(wait_until, "it is ready", lambda: relay.get("/readyz")[0] == 200)
            workers = [*processes(relay).values()]
            content = make_mail(SENDER, RECIPIENT, b"hello\r\n").content + b"."
            async with session(relay) as client:
                assert (await client.converse(FROM, TO, b"DATA", content))[-1].startswith("250")
            await hop.reached("held")
            relay.process.kill()
            relay.process.wait()
            relay = start()
            # One of them still waits for the answer to its final dot: to deliver anew would double the mail.
            await asyncio.to_thread(wait_until, "the next one waits", lambda: "queue.waiting" in relay.log)
            assert relay.get("/readyz")[0] == 0
            hop.hold.set()
            await asyncio.to_thread(wait_until, "the next one is ready", lambda: relay.get("/readyz")[0] == 200)
            await asyncio.to_thread(wait_until, "the old ones have gone", lambda: not any(map(exists, workers)))
            assert len(hop.accepted) == 1
            await asyncio.to_thread(relay.stop)
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            for number in workers:
                if exists(number):
                    os.kill(number, signal.SIGKILL)


async def test_a_worker_that_hangs_does_not_keep_the_others_from_work(recorder: Recorder, tmp_path: Path) -> None:
    """Its share of the connections waits; the page of metrics does not. Killed, it is replaced."""
    with running_relay(tmp_path, tables(recorder.port)) as relay:
        process = processes(relay)["1"]
        os.kill(process, signal.SIGSTOP)
        try:
            assert relay.get("/livez")[0] == 200
            assert await asyncio.to_thread(lambda: "relay_connections_total" in relay.get("/metrics")[1])
        finally:
            os.kill(process, signal.SIGKILL)
        wait_until("another has begun", lambda: processes(relay)["1"] != process)


# --- one relay -------------------------------------------------------------------------------------


def test_a_port_in_use_is_said_so(tmp_path: Path) -> None:
    """SO_REUSEPORT would share it, as the same user's."""
    given = tables()
    with running_relay(tmp_path / "one", given) as relay:
        other = tables()
        other["listener"]["mail"]["port"] = relay.ports["mail"]
        for workers in (1, 2):
            config = tmp_path / "other.toml"
            tables_ = {**other, "workers": workers, "hostname": "relay.example", "web": {"port": free_port()}}
            config.write_text(to_toml({**tables_, "data": str(tmp_path / "two")}))
            command = [sys.executable, "-m", "relay", "serve", "-c", str(config)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
            assert done.returncode == 2, done.stderr
            assert f"listener.mail.port: 127.0.0.1:{relay.ports['mail']} is in use" in done.stderr
            assert "supervisor.worker_started" not in done.stderr


def test_a_reload_with_a_port_in_use_changes_nothing_and_another_brings_it_to_both(tmp_path: Path) -> None:
    with running_relay(tmp_path, tables(log={"level": "info"})) as relay, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        good = relay.config.read_text()
        settings = '"role" = "submission", "allow" = ["127.0.0.0/8"], "senders" = ["*"], '

        def with_second(port: int) -> str:
            return good.replace("listener = { ", f'listener = {{ "second" = {{ {settings} "port" = {port} }}, ')

        taken, free = other.getsockname()[1], free_port()
        assert with_second(free) != good
        assert not relay.reload(with_second(taken))
        assert f"listener.second.port: 127.0.0.1:{taken} is in use" in relay.log
        assert relay.reload(with_second(free))
        assert relay.get("/readyz")[0] == 200
        assert listens(free)
        for process in processes(relay).values():  # either alone serves it
            os.kill(process, signal.SIGSTOP)
            try:
                assert_greets(free)
            finally:
                os.kill(process, signal.SIGCONT)
        assert relay.reload(good)
        wait_until("both have left it", lambda: not listens(free))


def test_what_a_worker_cannot_use_stops_the_start(tmp_path: Path) -> None:
    """The supervisor could have read the recipients; a file that changes under them is an error as with one process."""
    config = tmp_path / "relay.toml"
    given = tables(hostname="relay.example", data=str(tmp_path / "data"), web={"port": free_port()})
    given["listener"] = {"mail": {"role": "gateway", "port": free_port(), "domains": ["theirs.example"]}}
    given["listener"]["mail"]["recipients"] = str(tmp_path / "recipients")
    (tmp_path / "recipients").write_text("no address\n")
    config.write_text(to_toml(given))
    command = [sys.executable, "-m", "relay", "serve", "-c", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "recipients" in done.stderr.splitlines()[-1]


async def test_the_operator_talks_to_all_of_them(recorder: Recorder, tmp_path: Path) -> None:
    """`relay queue` speaks to the supervisor; what it makes due, workers deliver."""
    hop = free_port()  # nobody listens there yet
    given = tables(hop, route={"mode": "queue"}, queue={"first_retry": "1 h"})
    with running_relay(tmp_path, given) as relay:
        sent = 0

        async def send(client: SmtpClient) -> None:
            nonlocal sent
            mail = make_mail(SENDER, RECIPIENT, b"hello\r\n")
            assert (await client.converse(FROM, TO, b"DATA", mail.content + b"."))[-1].startswith("250")
            sent += 1

        await on_both(relay, send)

        def queue(*arguments: str) -> Any:
            command = [sys.executable, "-m", "relay", "queue", arguments[0], "-c", str(relay.config), *arguments[1:]]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            return done.stdout

        # Either the hop was found down first, and nobody asks it for the rest.
        wait_until("it was tried", lambda: relay.log.count(" queue.deferred ") >= sent or " queue.down " in relay.log)
        assert len(queue("list").splitlines()) >= sent
        async with FakeHop(port=hop) as server:
            await asyncio.to_thread(queue, "flush")
            await server.reached("dot", sent)
            await asyncio.to_thread(
                wait_until, "all are delivered", lambda: relay.log.count(" queue.delivered ") == sent
            )


def test_the_log_says_which_worker(tmp_path: Path) -> None:
    with running_relay(tmp_path, tables(log={"format": "json"})) as relay:
        assert relay.get("/livez")[0] == 200
    facts = [json.loads(line) for line in relay.log.splitlines()]
    started = [fact["worker"] for fact in facts if fact["event"] == "supervisor.worker_started"]
    assert sorted(started) == [1, 2]
    assert [fact["code"] for fact in facts if fact["event"] == "supervisor.worker_ended"] == [0, 0]
    assert [fact["event"] for fact in facts if fact["event"].startswith("app.")] == [
        "app.started", "app.stopping", "app.stopped",
    ]  # fmt: skip
