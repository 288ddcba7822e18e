"""Any sequence of commands is answered as a small model of RFC 5321 §4.1.4 says (R14, D14)."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay import reply
from relay.address import Address
from relay.envelope import Envelope
from relay.reply import Reply
from tests.support.smtp_client import code, smtp_client
from tests.support.stages import Scripted, listening


class Moody(Scripted):
    """What it answers stands in the addresses and in the message."""

    def sender(self, envelope: Envelope) -> Reply:
        return self._mood(envelope.reverse_path, reply.SENDER_OK)

    async def recipient(self, envelope: Envelope, recipient: Address) -> Reply:
        return self._mood(recipient, reply.RECIPIENT_OK)

    async def receive(self, envelope: Envelope, content: bytearray) -> Reply:
        self.received.append((envelope, bytes(content)))
        return self._mood(Address(bytes(content[:-2]).decode().lstrip("-"), ""), reply.accepted(envelope.id))

    def _mood(self, address: Address | None, positive: Reply) -> Reply:
        match address.local if address else "":
            case "no":
                return reply.NO_RELAY
            case "later":
                return reply.HOP_TROUBLE
            case "bug":
                raise RuntimeError("secret")
        return positive


MOODS = {"ok": None, "no": "550 5.7.1", "later": "451 4.4.0", "bug": "451 4.3.0"}


@dataclass
class Model:
    """What a session may answer, written down a second time and much shorter."""

    hello: str = ""
    sender: str | None = None
    recipients: list[str] = field(default_factory=list)
    received: list[tuple[str, list[str], str]] = field(default_factory=list)
    chunks: str | None = None  # the message so far, once BDAT began it
    fault: str = ""  # why that message is refused
    is_refused: bool = False  # a DATA was, and what is no verb ends the session

    def reset(self) -> None:
        self.sender, self.recipients, self.chunks, self.fault = None, [], None, ""

    def answer(self, verb: str, mood: str) -> str:
        answer = self._answer(verb, mood)
        self.is_refused = verb == "DATA" and answer != "354"
        return answer

    def _answer(self, verb: str, mood: str) -> str:
        match verb:
            case "EHLO" | "HELO":
                self.reset()
                self.hello = verb
                return "250"
            case "RSET":
                self.reset()
                return "250 2.0.0"
            case "NOOP":
                return "250 2.0.0"
            case "VRFY":
                return "252 2.5.0"
            case "MAIL":
                if not self.hello or self.sender is not None:
                    return "503 5.5.1"
                if refused := MOODS[mood]:
                    return refused
                self.sender = mood
                return "250 2.1.0"
            case "RCPT":
                if self.sender is None or self.chunks is not None:
                    return "503 5.5.1"
                if refused := MOODS[mood]:
                    return refused
                self.recipients.append(mood)
                return "250 2.1.5"
            case "CHUNK" | "LAST":
                return self._bdat(mood, is_last=verb == "LAST")
            case "DATA":
                if self.chunks is not None:
                    self.fault = self.fault or "503 5.5.1"
                    return "503 5.5.1"
                if self.sender is None:
                    return "503 5.5.1"
                return "354" if self.recipients else "554 5.5.1"
            case "AUTH":
                return "502 5.5.1" if self.hello == "EHLO" else "503 5.5.1"
            case "STARTTLS" | "EXPN":
                return "502 5.5.1"
            case "FOO":
                return "500 5.5.1"
        raise AssertionError(verb)

    def _bdat(self, mood: str, *, is_last: bool) -> str:
        """RFC 3030 §2: after a chunk that is refused the transaction only ends."""
        if self.sender is None:
            return "503 5.5.1"
        if self.chunks is None:
            self.chunks, self.fault = "", "" if self.recipients else "554 5.5.1"
        if not is_last:
            self.chunks += "-"
            return self.fault or "250 2.0.0"
        if fault := self.fault:
            self.reset()
            return fault
        return self.end(mood, self.chunks + mood)

    def end(self, mood: str, content: str) -> str:
        assert self.sender is not None
        self.received.append((self.sender, self.recipients, content))
        self.reset()
        return MOODS[mood] or "250 2.0.0"


LINES = {
    "EHLO": b"EHLO client.test",
    "HELO": b"HELO client.test",
    "MAIL": b"MAIL FROM:<%s@example.org>",
    "RCPT": b"RCPT TO:<%s@example.net>",
    "AUTH": b"AUTH PLAIN AGEAYg==",
    "VRFY": b"VRFY someone",
    "EXPN": b"EXPN staff",
    "CHUNK": b"BDAT 1\r\n-",
}
MAIL = ["EHLO", "MAIL", "RCPT", "RCPT", "DATA"]
CHUNKS = ["CHUNK", "LAST"]
VERBS = [*MAIL, *MAIL, "HELO", "RSET", "NOOP", "VRFY", "AUTH", "STARTTLS", "EXPN", *CHUNKS, *CHUNKS, "FOO"]
COMMANDS = st.tuples(st.sampled_from(VERBS), st.sampled_from(list(MOODS)), st.booleans())
TABLES: dict[str, Any] = {
    "listener": {"capture": {"role": "capture"}},
    "limit": {"errors": 10_000, "junk": 10_000},
    "delay": {"error": "0s"},
}


def octets(verb: str, mood: str) -> bytes:
    line = LINES.get(verb, verb.encode())
    if verb == "CHUNK":
        return line
    if verb == "LAST":
        return b"BDAT %d LAST\r\n%s\r\n" % (len(mood) + 2, mood.encode())
    return (line % mood.encode() if b"%s" in line else line) + b"\r\n"


async def play(commands: list[tuple[str, str, bool]]) -> None:
    stages, model = Moody(), Model()
    async with listening(stages, TABLES) as relay, smtp_client(relay.address("capture")) as client:
        assert code(await client.read()) == "220"
        expected: list[str] = []
        for verb, mood, wait in commands:
            if model.is_refused and verb == "FOO":
                assert code(await client.say(b"FOO")) == "421 4.7.0"
                expected = []
                break
            client.send(octets(verb, mood))
            expected.append(model.answer(verb, mood))
            if wait or verb in ("DATA", "EHLO", "AUTH", "STARTTLS"):  # RFC 2920 §3.1: these end a group
                said = [await client.read() for _ in expected]
                assert [code(text) for text in said] == expected
                assert "secret" not in "".join(said)
                if expected[-1] == "354":
                    assert code(await client.say(mood.encode() + b"\r\n.")) == model.end(mood, mood)
                expected = []
        assert [code(await client.read()) for _ in expected] == expected
    assert [
        (envelope.reverse_path.local, [one.local for one in envelope.recipients], content[:-2].decode())
        for envelope, content in stages.received
        if envelope.reverse_path
    ] == model.received


@pytest.mark.timeout(240)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(COMMANDS, max_size=25))
def test_a_session_is_what_the_model_says(commands: list[tuple[str, str, bool]]) -> None:
    asyncio.run(play(commands))
