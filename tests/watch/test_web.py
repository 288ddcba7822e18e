"""The health page: what it answers, whom it answers, and that it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from relay.errors import ConfigError
from relay.watch import web
from relay.watch.metrics import Metrics
from relay.watch.web import Web


async def expose() -> bytes:
    return Metrics().expose()


@dataclass
class Page:
    """A running page. parts: what it is told of readiness."""

    port: int = 0
    parts: dict[str, bool] = field(default_factory=lambda: {"listeners": True, "inbox": True})

    async def send(self, request: str) -> tuple[int, dict[str, str], bytes]:
        """Status, header in lower case, body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request.encode("latin-1"))
        header = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in header[1:] if line)
        body = await reader.readexactly(int(fields["content-length"]))
        writer.close()
        await writer.wait_closed()
        return int(header[0].split()[1]), fields, body

    async def get(self, path: str, host: str = "localhost") -> tuple[int, dict[str, str], bytes]:
        return await self.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    page = Page()
    server = Web(expose, lambda: page.parts, "mail.example.org")
    page.port = await server.start("127.0.0.1", 0)
    yield page
    await server.stop()


async def test_livez_says_ok(page: Page) -> None:
    status, _, body = await page.get("/livez")
    assert (status, body) == (200, b"ok\n")


async def test_readyz_is_200_when_every_part_is_ready(page: Page) -> None:
    status, fields, body = await page.get("/readyz")
    assert status == 200
    assert fields["content-type"].startswith("application/json")
    assert json.loads(body) == {"ready": True, "listeners": True, "inbox": True}


async def test_readyz_is_503_and_names_the_part_that_is_not(page: Page) -> None:
    page.parts["listeners"] = False
    status, _, body = await page.get("/readyz")
    assert status == 503
    assert json.loads(body) == {"ready": False, "listeners": False, "inbox": True}
    assert (await page.get("/livez"))[0] == 200


async def test_metrics_are_what_prometheus_reads(page: Page) -> None:
    status, fields, body = await page.get("/metrics")
    assert status == 200
    assert fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"relay_build_info{" in body


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8025", 200),
        ("LOCALHOST", 200),
        ("localhost.", 200),
        ("127.0.0.1", 200),
        ("127.0.0.1:8025", 200),
        ("[::1]:8025", 200),
        ("[::1]", 200),
        ("192.0.2.7:8025", 200),  # a scraper asks by address, which nobody can rebind
        ("mail.example.org", 200),
        ("mail.example.org:8025", 200),
        ("evil.example", 421),  # RFC 9110 §15.5.20
        ("evil.example:8025", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("evil", 421),
        ("mail.example.org.evil.example", 421),
        ("", 421),
    ],
)
@pytest.mark.parametrize("path", ["/readyz", "/metrics"])
async def test_only_our_own_names_are_served(page: Page, path: str, host: str, status: int) -> None:
    assert (await page.get(path, host))[0] == status


async def test_a_probe_without_a_host_is_served(page: Page) -> None:
    """HTTP/1.0 has no Host; a browser always sends one."""
    assert (await page.send("GET /livez HTTP/1.0\r\n\r\n"))[0] == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/nothing"])
async def test_no_answer_says_what_we_are_made_of(page: Page, path: str) -> None:
    _, fields, _ = await page.get(path)
    assert "server" not in fields
    assert fields["x-content-type-options"] == "nosniff"
    assert fields["cache-control"] == "no-store"


@pytest.mark.parametrize(("method", "status"), [("POST", 405), ("PUT", 405), ("DELETE", 405), ("OPTIONS", 405)])
async def test_it_can_only_be_read(page: Page, method: str, status: int) -> None:
    request = f"{method} /readyz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    assert (await page.send(request))[0] == status


async def test_a_taken_port_is_a_problem_with_the_configuration(page: Page) -> None:
    other = Web(expose, dict, "mail.example.org")
    with pytest.raises(ConfigError) as caught:
        await other.start("127.0.0.1", page.port)
    (problem,) = caught.value.problems
    assert problem.key == "web.port"
    assert str(page.port) in problem.text
    await other.stop()


async def test_stop_without_start_is_nothing() -> None:
    await Web(expose, dict, "mail.example.org").stop()


@pytest.mark.parametrize("sent", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"])
async def test_stop_closes_connections_that_linger(sent: bytes) -> None:
    server = Web(expose, dict, "mail.example.org")
    reader, writer = await asyncio.open_connection("127.0.0.1", await server.start("127.0.0.1", 0))
    writer.write(sent)
    if sent.endswith(b"\r\n\r\n"):
        await reader.readuntil(b"ok\n")
    await server.stop()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_a_connection_that_never_asks_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LIFETIME", 0.05)
    server = Web(expose, dict, "mail.example.org")
    reader, writer = await asyncio.open_connection("127.0.0.1", await server.start("127.0.0.1", 0))
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    await server.stop()


async def test_connections_beyond_the_cap_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "CONNECTIONS", 2)
    server = Web(expose, lambda: {}, "mail.example.org")
    page = Page(await server.start("127.0.0.1", 0))
    held = [await asyncio.open_connection("127.0.0.1", page.port) for _ in range(2)]
    for reader, writer in held:
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"ok\n")
    reader, third = await asyncio.open_connection("127.0.0.1", page.port)
    assert await reader.read() == b""
    third.close()
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    await server.stop()
