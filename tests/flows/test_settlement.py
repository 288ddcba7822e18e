"""A mailbox server that answers for each recipient, and clients that hear one reply for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.fake_hop import Close, FakeHop, Reply
from tests.support.running import running
from tests.support.transcript import play

HELLO = "S: 220 *\nC: EHLO client.test\nS: 250 *\nC: MAIL FROM:<eve@theirs.org>\nS: 250 2.1.0 *\n"
OK = "250 2.1.5 *"
TAKEN, FULL, NOBODY = Reply("250 2.0.0 saved"), Reply("452 4.2.2 full"), Reply("550 5.1.1 nobody")


def mail(recipients: dict[str, str], dot: str, text: str = "hello") -> str:
    """A session: what each RCPT and the final dot is answered."""
    rcpts = "".join(f"C: RCPT TO:<{name}@ours.org>\nS: {said}\n" for name, said in recipients.items())
    return f"{HELLO}{rcpts}C: DATA\nS: 354 *\nC: Subject: one\nC:\nC: {text}\nC: .\nS: {dot}\n"


def tables(port: int) -> dict[str, Any]:
    return {
        "listener": {"gateway": {"role": "gateway", "domains": ["ours.org"]}},
        "route": {"all": {"hop": "mailbox"}},
        "hop": {"mailbox": {"kind": "lmtp", "host": ["127.0.0.1"], "port": port, "tls": "none"}},
    }


def sent(fake: FakeHop) -> list[list[str]]:
    """For whom each content was sent."""
    transactions: list[list[str]] = []
    names: list[str] = []
    for command in fake.commands:
        if command.startswith(b"MAIL"):
            names = []
        elif command.startswith(b"RCPT"):
            names.append(command[9:].partition(b"@")[0].decode())
        elif command == b"DATA":
            transactions.append(names)
    return transactions


async def test_who_has_the_message_gets_no_second_copy_and_the_others_hear_why(tmp_path: Path) -> None:
    async with (
        FakeHop({"dot": [TAKEN, FULL, NOBODY]}, lmtp=True) as fake,
        running(tables(fake.port), tmp_path) as relay,
    ):
        port = relay.port("gateway")
        await play(port, mail({"ann": OK, "bob": OK, "cat": OK}, "451 4.5.3 *"))
        assert sent(fake) == [["ann", "bob", "cat"]]
        told = {"ann": OK, "bob": "452 4.2.2 full", "cat": "550 5.1.1 nobody"}
        # Nobody is left to send to: what the hop said the first time is the answer.
        await play(port, mail(told, "250 2.0.0 saved *"))
        assert sent(fake) == [["ann", "bob", "cat"]]
        (settled,) = relay.of("pipeline.settled")
        assert settled.values["to"] == ["ann@ours.org"]
        # Each was told once. The hop is asked again, and bob has room now.
        await play(port, mail({"bob": OK}, "250 2.0.0 *"))
        await play(port, mail({"ann": OK}, "250 2.0.0 *"))
        assert sent(fake)[1:] == [["bob"], ["ann"]]


async def test_other_content_is_another_mail(tmp_path: Path) -> None:
    async with FakeHop({"dot": [TAKEN, FULL]}, lmtp=True) as fake, running(tables(fake.port), tmp_path) as relay:
        port = relay.port("gateway")
        await play(port, mail({"ann": OK, "bob": OK}, "451 4.5.3 *"))
        await play(port, mail({"ann": OK}, "250 2.0.0 *", text="something else"))
        assert sent(fake) == [["ann", "bob"], ["ann"]]
        assert relay.of("pipeline.settled") == []


async def test_whoever_is_still_in_doubt_is_sent_to_again_alone(tmp_path: Path) -> None:
    """RFC 1047: cut after ann's answer, nobody knows whether bob has it; and then he is refused."""
    dots = [TAKEN, Close(), NOBODY]
    async with FakeHop({"dot": dots}, lmtp=True) as fake, running(tables(fake.port), tmp_path) as relay:
        port = relay.port("gateway")
        await play(port, mail({"ann": OK, "bob": OK}, "451 4.5.3 *"))
        await play(port, mail({"ann": OK, "bob": OK}, "451 4.5.3 *"))
        await play(port, mail({"ann": OK, "bob": "550 5.1.1 nobody"}, "250 2.0.0 *"))
        assert sent(fake) == [["ann", "bob"], ["bob"]]


async def test_recipients_that_all_get_the_same_answer_hear_it_at_once(tmp_path: Path) -> None:
    async with FakeHop({"dot": [NOBODY, NOBODY]}, lmtp=True) as fake, running(tables(fake.port), tmp_path) as relay:
        port = relay.port("gateway")
        await play(port, mail({"ann": OK, "bob": OK}, "550 5.1.1 nobody"))
        await play(port, mail({"ann": OK, "bob": OK}, "250 2.0.0 *"))
        assert sent(fake) == [["ann", "bob"]] * 2


async def test_nothing_is_sent_when_they_disagree_at_rcpt(tmp_path: Path) -> None:
    script = {"rcpt": [Reply("250 2.1.5 ok"), FULL]}
    async with FakeHop(script, lmtp=True) as fake, running(tables(fake.port), tmp_path) as relay:
        port = relay.port("gateway")
        await play(port, mail({"ann": OK, "bob": OK}, "451 4.5.3 *"))
        assert sent(fake) == []
        await play(port, mail({"ann": OK, "bob": "452 4.2.2 full"}, "250 2.0.0 *"))
        assert sent(fake) == [["ann"]]
