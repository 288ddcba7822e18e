"""A token server (RFC 6749) on loopback: what it answers is data, what it was asked is kept."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType

from aiohttp import web


@dataclass(frozen=True)
class Answer:
    """body: JSON, or octets as they are. stall: none until the server ends."""

    body: object
    status: int = 200
    stall: bool = False


def grant(token: str, lifetime: object = 3600, **more: object) -> Answer:
    """RFC 6749 §5.1."""
    return Answer({"access_token": token, "token_type": "Bearer", "expires_in": lifetime, **more})


def error(code: str, status: int = 400) -> Answer:
    """RFC 6749 §5.2, with a description that quotes what it should not."""
    return Answer({"error": code, "error_description": "client_secret s3cret-canary, token t0ken-canary"}, status)


class TokenServer:
    """answers: used up one by one; the last one stays. asked: each form."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = [*answers]
        self.asked: list[dict[str, str]] = []
        self.came = asyncio.Event()  # somebody asks
        self.hold: asyncio.Event | None = None  # when set: it answers only once this is set
        self._ending = asyncio.Event()

    async def __aenter__(self) -> TokenServer:
        application = web.Application()
        application.router.add_post("/token", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/token"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append({name: str(value) for name, value in (await request.post()).items()})
        self.came.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if self.hold is not None:
            await self.hold.wait()
        if answer.stall:
            await self._ending.wait()
        if isinstance(answer.body, bytes):
            headers = {"Location": answer.body.decode()} if answer.status in (302, 307) else {}
            return web.Response(body=answer.body, status=answer.status, headers=headers)
        return web.json_response(answer.body, status=answer.status)
