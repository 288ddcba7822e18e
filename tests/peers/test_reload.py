"""Twenty reloads under load, half of them of configurations that cannot be used: no mail fails, is lost or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Certificates, make_certificates
from tests.support.mail import Mail, make_mail
from tests.support.recorder import Recorder, running_recorder
from tests.support.relay_process import RelayProcess, running_relay, to_toml
from tests.support.smtp_client import SmtpClient, smtp_client

pytestmark = pytest.mark.xdist_group("reload")

RELOADS, CLIENTS = 20, 8


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def recorders() -> Iterator[tuple[Recorder, Recorder]]:
    with running_recorder() as first, running_recorder() as second:
        yield first, second


def tables(hop: int, certificates: Certificates, folder: Path, workers: int) -> dict[str, Any]:
    tls = {"certificate": certificates.chain, "key": certificates.key}
    listener = {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["*"]}
    key = {"selector": "r1", "file": folder / "r1.pem", "generate": True}
    return {
        "workers": workers,
        "listener": {"plain": listener, "starttls": {**listener, "tls": "starttls", **tls}},
        "hop": {"server": {"host": ["127.0.0.1"], "port": hop, "tls": "none"}},
        "route": {"all": {"hop": "server"}},
        "domain": {"client": {"name": "client.example", "key": {"rsa": key}}},
        "log": {"level": "info"},
    }


def spoilt(text: str, good: dict[str, Any], folder: Path) -> list[str]:
    """Configurations that cannot be used, each for a reason of its own."""
    missing = {"certificate": folder / "missing.pem", "key": folder / "missing.key"}
    listener = good["listener"]
    itself = {"host": ["127.0.0.1"], "port": listener["plain"]["port"], "tls": "none"}
    changes: list[dict[str, Any]] = [
        {"hostnam": "relay.example"},
        {"listener": {**listener, "starttls": {**listener["starttls"], **missing}}},
        {"hop": {"server": itself}},
        {"route": {"all": {"hop": "nowhere"}}},
        {"login": {"file": folder / "no logins"}},
        {
            "domain": {
                "client": {"name": "client.example", "key": {"r": {"selector": "r", "file": folder / "none.pem"}}}
            }
        },
        {"listener": {**listener, "plain": {**listener["plain"], "allow": ["0.0.0.0/0"]}}},
        {"timeout": {"dns": "30s", "checks": "20s"}},
    ]
    return ["", text[: len(text) // 2], *(to_toml({**good, **change}) for change in changes)]


class Load:
    """Clients that send one mail after the other, on kept connections and on new ones, until told to stop."""

    def __init__(self, relay: RelayProcess, certificates: Certificates) -> None:
        self._ports, self._context = relay.ports, certificates.client_context()
        self.acknowledged: list[Mail] = []
        self.failed: list[str] = []
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(number))

    def stop(self) -> None:
        self._stopped.set()

    async def progress(self, mails: int) -> None:
        """Wait until so many more have been answered."""
        until = len(self.acknowledged) + len(self.failed) + mails
        async with asyncio.timeout(20):
            while len(self.acknowledged) + len(self.failed) < until:
                await asyncio.sleep(0.005)

    async def _client(self, number: int) -> None:
        tls = number % 2 == 1
        per_connection = count() if number % 4 < 2 else (0,)  # half of them come anew for each mail
        while not self._stopped.is_set():
            try:
                async with smtp_client(("127.0.0.1", self._ports["starttls" if tls else "plain"])) as client:
                    await client.read()
                    await client.say(b"EHLO client.example")
                    if tls:
                        await client.say(b"STARTTLS")
                        await client.start_tls(self._context)
                        await client.say(b"EHLO client.example")
                    for _ in per_connection:
                        await self._send(client)
                        if self._stopped.is_set():
                            break
                    await client.say(b"QUIT")
            except (OSError, TimeoutError) as error:
                self.failed.append(repr(error))
                return

    async def _send(self, client: SmtpClient) -> None:
        mail = make_mail("ann@client.example", "bob@theirs.example", b"hello\r\n")
        for line in (b"MAIL FROM:<ann@client.example>", b"RCPT TO:<bob@theirs.example>", b"DATA"):
            reply = await client.say(line)
            if reply[:1] not in ("2", "3"):
                raise ConnectionError(f"{line!r}: {reply}")
        client.send(mail.content + b".\r\n")
        reply = await client.read()
        if reply.startswith("250"):
            self.acknowledged.append(mail)
        else:
            self.failed.append(reply)


@pytest.mark.parametrize("workers", [1, 2])
async def test_reloads_under_load_fail_no_mail(
    recorders: tuple[Recorder, Recorder], certificates: Certificates, tmp_path: Path, workers: int
) -> None:
    start = tables(recorders[0].port, certificates, tmp_path, workers)
    with running_relay(tmp_path / "relay", start) as relay:
        text = relay.config.read_text()
        hops = [f'"port" = {recorder.port}' for recorder in recorders]
        assert text.count(hops[0]) == 1
        load = Load(relay, certificates)
        sending = asyncio.create_task(load.run())
        await load.progress(CLIENTS)
        bad = spoilt(text, with_ports(start, relay, tmp_path / "relay"), tmp_path)
        target = 0
        for number in range(RELOADS):
            if is_good := number % 2 == 0:  # from now on the mail goes to the other server
                target = 1 - target
                given = text.replace(hops[0], hops[target])
            else:
                given = bad[number // 2]
            assert await asyncio.to_thread(relay.reload, given) == is_good, relay.log
            assert relay.metric("relay_config_reload_ok") == is_good
            before = len(recorders[target].transactions)
            await load.progress(2 * CLIENTS)
            assert len(recorders[target].transactions) > before
        load.stop()
        await sending
        assert relay.get("/readyz")[0] == 200
    assert load.failed == []
    assert_each_arrived_once(recorders, load)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_stop_under_load_loses_and_doubles_nothing(
    recorders: tuple[Recorder, Recorder], certificates: Certificates, tmp_path: Path, workers: int
) -> None:
    with running_relay(tmp_path / "relay", tables(recorders[0].port, certificates, tmp_path, workers)) as relay:
        load = Load(relay, certificates)
        sending = asyncio.create_task(load.run())
        await load.progress(5 * CLIENTS)
        await asyncio.to_thread(relay.stop)
        await sending
    assert len(load.failed) == CLIENTS  # each was told, or its connection ended
    assert_each_arrived_once(recorders, load)


def assert_each_arrived_once(recorders: tuple[Recorder, Recorder], load: Load) -> None:
    """All that was answered 250 did, and nothing else."""
    contents = b"".join(one.content for recorder in recorders for one in recorder.transactions)
    assert all(contents.count(f"X-Token: {mail.token}\r\n".encode()) == 1 for mail in load.acknowledged)
    assert sum(len(recorder.transactions) for recorder in recorders) == len(load.acknowledged)


def with_ports(given: dict[str, Any], relay: RelayProcess, folder: Path) -> dict[str, Any]:
    """The tables as `running_relay` completed them."""
    listeners = {name: {"port": relay.ports[name], **one} for name, one in given["listener"].items()}
    defaults = {"hostname": "relay.example", "data": str(folder / "data"), "web": {"port": relay.web}}
    return {**defaults, **given, "listener": listeners}
