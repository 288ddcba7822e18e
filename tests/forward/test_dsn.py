"""What a sender wants to hear about his mail goes on to hops that offer DSN, as it came (RFC 3461)."""

from __future__ import annotations

from relay.envelope import Envelope, Notify
from tests.support.fake_hop import EXTENSIONS, FakeHop
from tests.support.sending import ANN, BOB, CAT, Sending

# RFC 3461 §10.1, the example's own spelling
ENVID, ORCPT = "QQ314159", "rfc822;Bob@Big-Bucks.com"


def want(envelope: Envelope) -> None:
    envelope.ret, envelope.envid = "HDRS", ENVID
    envelope.notify = {ANN: Notify("SUCCESS,FAILURE", ORCPT), BOB: Notify("NEVER"), CAT: Notify("", "rfc822;a+2Bb@c.d")}


async def said(extensions: tuple[str, ...], *, lmtp: bool = False) -> list[bytes]:
    async with FakeHop(extensions=extensions, lmtp=lmtp) as fake:
        sending = Sending(fake.port, kind="lmtp" if lmtp else "smtp")
        await sending.deliver(ANN, BOB, CAT, change=want)
        await sending.deliver(ANN)
        await sending.close()
        return [command for command in fake.commands if command[:4] in (b"MAIL", b"RCPT")]


async def test_it_is_passed_on_unchanged() -> None:
    for lmtp in (False, True):
        assert await said(("DSN", "PIPELINING"), lmtp=lmtp) == [
            b"MAIL FROM:<ann@example.org> RET=HDRS ENVID=QQ314159",
            b"RCPT TO:<ann@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob@Big-Bucks.com",
            b"RCPT TO:<bob@example.com> NOTIFY=NEVER",
            b"RCPT TO:<cat@example.com> ORCPT=rfc822;a+2Bb@c.d",
            b"MAIL FROM:<ann@example.org>",
            b"RCPT TO:<ann@example.com>",
        ]


async def test_a_hop_without_dsn_hears_nothing_of_it() -> None:
    # RFC 3461 §5.2.2: the client MUST NOT issue the parameters
    for command in await said(EXTENSIONS):
        assert not any(word in command for word in (b"RET", b"ENVID", b"NOTIFY", b"ORCPT")), command
