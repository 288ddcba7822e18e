"""HTTP for machines: `/livez` (the process runs), `/readyz` (mail is taken), `/metrics` (Prometheus).

A Host header must name this machine: a page in somebody's browser whose own name was made to point
here (DNS rebinding) is answered 421.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from relay.errors import ConfigError, Problem
from relay.watch.metrics import CONTENT_TYPE

CONNECTIONS = 100  # at once; beyond that they are closed unheard
LIFETIME = 60.0  # seconds; aiohttp itself would wait for ever for the first request
SHUTDOWN = 2.0  # seconds for answers in flight when we stop


class Web:
    """expose: the metrics page. ready: which parts are ready. hostname: ours."""

    def __init__(
        self, expose: Callable[[], Awaitable[bytes]], ready: Callable[[], Mapping[str, bool]], hostname: str
    ) -> None:
        self._expose = expose
        self._ready = ready
        self._names = {"localhost", hostname.lower(), socket.gethostname().lower()}
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Bind and serve; the real port. Raises ConfigError when it cannot be bound."""
        self._names.add(host.lower())
        app = web.Application(middlewares=[self._check_host], client_max_size=1024)
        app.on_response_prepare.append(_set_headers)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN, handle_signals=False)
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(self._make_protocol, host, port)
        except OSError as error:
            await self.stop()
            text = f"cannot listen on {host} port {port}: {error.strerror or error}"
            raise ConfigError(Problem("", "web.port", text)) from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Close the port and every connection; nothing if it was never started."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._server = self._runner = None

    def _make_protocol(self) -> asyncio.BaseProtocol:
        handlers = self._runner.server if self._runner else None
        if handlers is None or len(handlers.connections) >= CONNECTIONS:
            return _Closed()
        protocol = handlers()
        asyncio.get_running_loop().call_later(LIFETIME, protocol.force_close)
        return protocol

    @web.middleware
    async def _check_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        # A probe with HTTP/1.0 may send none; a browser always sends one.
        for host in request.headers.getall("Host", []):
            if not self._is_ours(host):
                raise web.HTTPMisdirectedRequest(
                    text="this Host is not served here: use an IP address or our hostname\n"
                )
        return await handler(request)

    def _is_ours(self, host: str) -> bool:
        """An IP address cannot be rebound: only a name can be made to point somewhere else."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        try:
            ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
        except ValueError:
            return name.lower().removesuffix(".") in self._names
        return True

    async def _livez(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        parts = self._ready()
        ready = all(parts.values())
        return web.json_response({**parts, "ready": ready}, status=200 if ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=await self._expose(), headers={"Content-Type": CONTENT_TYPE})


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"


class _Closed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _is_our_fault(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


# aiohttp logs a traceback for every client that speaks something else than HTTP.
logging.getLogger("aiohttp.server").addFilter(_is_our_fault)
