"""What dkimpy says of a message's signatures, for `relay verify --second-opinion`.

It runs in a thread under a deadline: some mails keep it busy for minutes (its canonicalisation is
quadratic, its RSA is Python), and a thread cannot be ended, so this is for one message at a time.
"""

from __future__ import annotations

import asyncio
import logging
import threading

import dkim

from relay.resolver import Questions, ResolverError

MAX_SIGNATURES = 5


async def ask_dkimpy(message: bytes, resolver: Questions, seconds: float) -> list[str]:
    """A word for each of the first signatures: `pass`, `fail`, or what it raised, `no answer in time` included."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def key_record(name: bytes, timeout: float = 0) -> bytes | None:
        asked = asyncio.run_coroutine_threadsafe(resolver.txt(name.decode("ascii", "replace")), loop)
        try:
            return asked.result()[0]
        except ResolverError:
            return None

    def work() -> None:
        quiet = logging.getLogger("relay.dkimpy")
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False
        try:
            verifier = dkim.DKIM(message, logger=quiet)  # type: ignore[no-untyped-call]
            count = sum(name.lower() == b"dkim-signature" for name, _ in verifier.headers)
            words = [_word(verifier, index, key_record) for index in range(min(count, MAX_SIGNATURES))]
        except Exception as error:  # it raises more than its own exceptions
            words = [f"{type(error).__name__}: {error}"]
        loop.call_soon_threadsafe(_settle, answer, words)

    # A daemon: what it is still doing when we have gone is nobody's business.
    threading.Thread(target=work, name="dkimpy", daemon=True).start()
    try:
        return await asyncio.wait_for(answer, seconds)
    except TimeoutError:
        return ["no answer in time"]


def _settle(answer: asyncio.Future[list[str]], words: list[str]) -> None:
    if not answer.done():
        answer.set_result(words)


def _word(verifier: dkim.DKIM, index: int, key_record: object) -> str:
    try:
        passed = verifier.verify(index, dnsfunc=key_record)  # type: ignore[no-untyped-call]
        return "pass" if passed else "fail"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
