"""The retry of a client that did not hear our reply, and all that only looks like one."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from relay.address import Address
from relay.decide.duplicates import Duplicates
from relay.envelope import Client, Envelope
from relay.message import Message
from relay.reply import INTERNAL, NO_SUCH_RECIPIENT, Reply, accepted
from tests.support.clock import JumpingClock

CONTENT = b"Message-ID: <1@client.test>\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\nhello\r\n"
ANN, BOB, CAT = Address("ann", "a.test"), Address("bob", "b.test"), Address("cat", "b.test")
CLIENT = Client("submission", "submission", ip_address("192.0.2.1"), 1)
DONE = accepted("0123456789abcdef")


def envelope(client: Client = CLIENT, path: Address | None = ANN, *recipients: Address) -> Envelope:
    return Envelope("id", client, path, recipients=list(recipients or (BOB, CAT)))


async def answer(duplicates: Duplicates, again: Envelope, content: bytes) -> Reply | None:
    return await duplicates.known(again, Message.parse(content), content)


async def test_the_retry_hears_what_became_of_the_first_once() -> None:
    duplicates = Duplicates(JumpingClock(), 60)
    assert await answer(duplicates, envelope(), CONTENT) is None
    await duplicates.unheard(envelope(), CONTENT, DONE)
    assert await answer(duplicates, envelope(), CONTENT) == DONE
    assert await answer(duplicates, envelope(), CONTENT) is None  # told: the next one is a mail of its own


async def test_a_refusal_is_told_as_well_and_what_may_be_tried_again_is_not() -> None:
    duplicates = Duplicates(JumpingClock(), 60)
    await duplicates.unheard(envelope(), CONTENT, INTERNAL)
    assert await answer(duplicates, envelope(), CONTENT) is None
    await duplicates.unheard(envelope(), CONTENT, NO_SUCH_RECIPIENT)
    assert await answer(duplicates, envelope(), CONTENT) == NO_SUCH_RECIPIENT


async def test_it_is_forgotten_in_time() -> None:
    clock = JumpingClock()
    duplicates = Duplicates(clock, 60)
    await duplicates.unheard(envelope(), CONTENT, DONE)
    clock.jump(61)
    assert await answer(duplicates, envelope(), CONTENT) is None


async def test_the_order_of_recipients_and_the_port_do_not_matter() -> None:
    duplicates = Duplicates(JumpingClock(), 60)
    await duplicates.unheard(envelope(), CONTENT, DONE)
    assert await answer(duplicates, envelope(replace(CLIENT, port=2), ANN, CAT, BOB), CONTENT) == DONE


OTHERS = [
    (envelope(replace(CLIENT, ip=ip_address("192.0.2.2"))), CONTENT),
    (envelope(replace(CLIENT, login="ann")), CONTENT),
    (envelope(CLIENT, None), CONTENT),
    (envelope(CLIENT, BOB), CONTENT),
    (envelope(CLIENT, ANN, BOB), CONTENT),
    (envelope(), CONTENT + b"more\r\n"),
    (envelope(), CONTENT.replace(b"<1@", b"<2@")),
]


@pytest.mark.parametrize(("other", "content"), OTHERS)
async def test_anything_else_is_another_mail(other: Envelope, content: bytes) -> None:
    duplicates = Duplicates(JumpingClock(), 60)
    await duplicates.unheard(envelope(), CONTENT, DONE)
    assert await answer(duplicates, other, content) is None


@pytest.mark.parametrize("missing", [b"Message-ID", b"Date"])
async def test_identical_alerts_without_name_or_time_are_two_mails(missing: bytes) -> None:
    content = CONTENT.replace(missing, b"X-Other")
    duplicates = Duplicates(JumpingClock(), 60)
    await duplicates.unheard(envelope(), content, DONE)
    assert await answer(duplicates, envelope(), content) is None
