"""A server of ours learns who the client is: XCLIENT between mails, or a PROXY header in front of everything."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from ipaddress import ip_address
from pathlib import Path

import pytest

from relay import reply
from relay.envelope import Client, Envelope
from relay.forward.identify import proxy_header, xclient
from relay.outcome import Outcome, Result
from tests.support.certificates import make_certificates
from tests.support.fake_hop import EXTENSIONS, Action, Close, FakeHop, Reply
from tests.support.sending import ANN, CLIENT, Sending

ALL = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
EVE = Client("gateway", "gateway", ip_address("192.0.2.7"), 4711, helo="eve.example")
IPV6 = dataclasses.replace(EVE, ip=ip_address("2001:db8::7"), helo="[IPv6:2001:db8::7]", extended=False)
LOGGED_IN = dataclasses.replace(EVE, login="ann smith=1", port=4712)


async def deliver(sending: Sending, client: Client) -> Outcome:
    def change(envelope: Envelope) -> None:
        envelope.client = client

    (outcome,) = await sending.deliver(ANN, change=change)
    return outcome


# --- XCLIENT (Postfix, XCLIENT_README) ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "offered", "command"),
    [
        (
            EVE,
            ALL,
            b"XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7 PORT=4711 PROTO=ESMTP HELO=eve.example LOGIN=[UNAVAILABLE]",
        ),
        (IPV6, "ADDR PORT PROTO HELO", b"XCLIENT ADDR=IPV6:2001:db8::7 PORT=4711 PROTO=SMTP HELO=[IPv6:2001:db8::7]"),
        # RFC 3461 §4: xtext
        (LOGGED_IN, "addr login", b"XCLIENT ADDR=192.0.2.7 LOGIN=ann+20smith+3D1"),
        (dataclasses.replace(EVE, helo="a+b\r\nc"), "HELO", b"XCLIENT HELO=a+2Bb+0D+0Ac"),
        (dataclasses.replace(EVE, login="jürgen"), "LOGIN", b"XCLIENT LOGIN=j+C3+BCrgen"),
        (dataclasses.replace(EVE, helo=""), "HELO", b"XCLIENT HELO=[UNAVAILABLE]"),
        (dataclasses.replace(EVE, helo=" " * 200), "HELO", b"XCLIENT HELO=[UNAVAILABLE]"),
    ],
)
def test_what_is_said_of_a_client(client: Client, offered: str, command: bytes) -> None:
    assert xclient(client, offered) == (command + b"\r\n",)


def test_no_command_is_longer_than_commands_may_be() -> None:
    # "The client must not send XCLIENT commands that exceed the 512 character limit for SMTP commands"
    long = dataclasses.replace(EVE, helo="h" * 255, login="l" * 255)
    commands = xclient(long, ALL)
    assert all(len(command) <= 512 and command.startswith(b"XCLIENT ") for command in commands)
    said = [word for command in commands for word in command.split()[1:]]
    assert said == [*xclient(EVE, ALL)[0].split()[1:5], b"HELO=" + b"h" * 255, b"LOGIN=" + b"l" * 255]


@pytest.mark.parametrize("lmtp", [False, True])
async def test_it_is_said_for_each_client_before_his_mail(lmtp: bool) -> None:
    async with FakeHop(extensions=(*EXTENSIONS, "XCLIENT ADDR PORT HELO"), lmtp=lmtp) as fake:
        sending = Sending(fake.port, identify="xclient", kind="lmtp" if lmtp else "smtp")
        for client in (EVE, EVE, IPV6, EVE):
            assert (await deliver(sending, client)).result is Result.DELIVERED
        await sending.close()
        hello = b"LHLO " if lmtp else b"EHLO "
        about = [command for command in fake.commands if command[:7] == b"XCLIENT" or command[1:4] == hello[1:4]]
        eve = [b"XCLIENT ADDR=192.0.2.7 PORT=4711 HELO=eve.example", hello + b"eve.example"]
        six = [
            b"XCLIENT ADDR=IPV6:2001:db8::7 PORT=4711 HELO=[IPv6:2001:db8::7]",
            hello + b"[IPv6:2001:db8::7]",
        ]
        assert about == [hello + b"relay.example.org", *eve, *six, *eve]
        assert len(fake.sessions) == 1


async def test_a_helo_that_is_no_word_is_not_repeated() -> None:
    async with FakeHop(extensions=("XCLIENT ADDR",)) as fake:
        sending = Sending(fake.port, identify="xclient")
        for helo in ("two words", ""):
            await deliver(sending, dataclasses.replace(EVE, helo=helo))
        await sending.close()
        assert {command for command in fake.commands if command[:4] == b"EHLO"} == {b"EHLO relay.example.org"}


async def test_a_question_about_a_recipient_is_his_too() -> None:
    async with FakeHop(extensions=("XCLIENT ADDR",)) as fake:
        sending = Sending(fake.port, identify="xclient")
        await sending.ask(client=EVE)
        await sending.close()
        assert fake.commands[1] == b"XCLIENT ADDR=192.0.2.7"


@pytest.mark.parametrize("offered", ["HELP", "XCLIENT", "XCLIENT NAME HELO"])
async def test_where_it_is_not_offered_nothing_is_sent(offered: str) -> None:
    async with FakeHop(extensions=(offered,)) as fake:
        sending = Sending(fake.port, identify="xclient")
        outcome = await deliver(sending, EVE)
        assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_TROUBLE)
        (trouble,) = [fact for fact in sending.facts if fact.event == "forward.trouble"]
        assert (trouble.level, trouble.values["cause"]) == ("error", "identify: XCLIENT ADDR is not offered")
        assert fake.commands == [b"EHLO relay.example.org"]
        await sending.close()


@pytest.mark.parametrize(
    ("script", "cause", "level"),
    [
        ({"xclient": Reply("550 5.7.1 not from you")}, "identify: 550 5.7.1 not from you", "error"),
        ({"xclient": Reply("450 4.3.0 later")}, "identify: 450 4.3.0 later", "warning"),
        ({"xclient": Close()}, "identify: connection closed", "warning"),
        ({"ehlo": [Reply("250-hop\r\n250 XCLIENT ADDR"), Reply("550 5.7.1 no")]}, "identify: 550 5.7.1 no", "error"),
    ],
)
async def test_where_it_is_not_taken_nothing_is_sent(
    script: dict[str, Action | list[Action]], cause: str, level: str
) -> None:
    async with FakeHop(script, extensions=("XCLIENT ADDR",)) as fake:
        sending = Sending(fake.port, identify="xclient")
        outcome = await deliver(sending, EVE)
        assert (outcome.result, outcome.cause, outcome.reply.code) == (Result.TEMPORARY, cause, 451)
        (trouble,) = [fact for fact in sending.facts if fact.event == "forward.trouble"]
        assert (trouble.level, trouble.values["cause"]) == (level, cause)
        assert not any(command.startswith(b"MAIL") for command in fake.commands)
        await fake.all_closed()
        await sending.close()


async def test_a_kept_connection_that_is_gone_at_xclient_is_replaced() -> None:
    async with FakeHop({"xclient": [Reply("220 ok"), Close()]}, extensions=("XCLIENT ADDR",)) as fake:
        sending = Sending(fake.port, identify="xclient")
        for client in (EVE, IPV6):
            assert (await deliver(sending, client)).result is Result.DELIVERED
        assert len(fake.sessions) == 2
        await sending.close()


async def test_a_client_who_may_not_introduce_others_has_the_connection_for_himself() -> None:
    """As Postfix does it: XCLIENT is offered to us, but not to whom we introduce."""
    ours, theirs = Reply("250-hop\r\n250 XCLIENT ADDR"), Reply("250 hop")
    async with FakeHop({"ehlo": [ours, theirs, ours, theirs]}) as fake:
        sending = Sending(fake.port, identify="xclient", connections=2)
        for client in (EVE, EVE, IPV6, EVE, IPV6):
            assert (await deliver(sending, client)).result is Result.DELIVERED
        assert [len(session.wires) for session in fake.sessions] == [3, 2]
        for session in fake.sessions:
            assert [command[:4] for command in session.commands[:3]] == [b"EHLO", b"XCLI", b"EHLO"]
            assert not any(command.startswith(b"XCLIENT") for command in session.commands[3:])
        await sending.close()


async def test_what_the_hop_takes_may_depend_on_the_client() -> None:
    first, then = Reply("250-hop\r\n250-8BITMIME\r\n250 XCLIENT ADDR"), Reply("250-hop\r\n250 XCLIENT ADDR")
    async with FakeHop({"ehlo": [first, then]}) as fake:
        sending = Sending(fake.port, identify="xclient")
        content = b"Subject: \xc3\xa4\r\n\r\n\xc3\xa4\r\n"
        (outcome,) = await sending.deliver(ANN, content=content)
        assert outcome.reply == reply.EIGHT_BIT_HOP
        await sending.close()


# --- PROXY v2 (HAProxy, proxy-protocol.txt §2.2) ------------------------------------------------------

SIGNATURE = "0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A"


@pytest.mark.parametrize(
    ("client", "host", "header"),
    [
        # version 2, PROXY; TCP over IPv4; 12 octets: 192.0.2.7, 198.51.100.1, 4711, 24
        (EVE, "198.51.100.1", "21 11 000C C0000207 C6336401 1267 0018"),
        (IPV6, "2001:db8::1", f"21 21 0024 20010DB8{'0' * 22}07 20010DB8{'0' * 22}01 1267 0018"),
        # families that differ: the client's, and nothing said of the hop
        (EVE, "2001:db8::1", "21 11 000C C0000207 00000000 1267 0018"),
        (IPV6, "198.51.100.1", f"21 21 0024 20010DB8{'0' * 22}07 {'0' * 32} 1267 0018"),
        (EVE, "fe80::1%eth0", "21 11 000C C0000207 00000000 1267 0018"),
        (None, "198.51.100.1", "20 00 0000"),  # LOCAL
    ],
)
def test_the_header(client: Client | None, host: str, header: str) -> None:
    assert proxy_header(client, host, 24) == bytes.fromhex(SIGNATURE + header)


async def test_each_client_has_connections_of_his_own() -> None:
    async with FakeHop(proxied=True) as fake:
        sending = Sending(fake.port, identify="proxy-v2")
        for client in (EVE, IPV6, LOGGED_IN, IPV6):
            assert (await deliver(sending, client)).result is Result.DELIVERED
        assert [session.proxy[4:8] for session in fake.sessions] == [EVE.ip.packed, IPV6.ip.packed[:4]]
        assert [len(session.wires) for session in fake.sessions] == [2, 2]
        await sending.close()


async def test_a_connection_of_another_client_gives_up_its_slot() -> None:
    async with FakeHop(proxied=True) as fake:
        sending = Sending(fake.port, identify="proxy-v2", connections=1)
        for client in (EVE, IPV6, EVE):
            assert (await deliver(sending, client)).result is Result.DELIVERED
        assert len(fake.sessions) == 3
        assert fake.peak == 1
        await sending.close()


async def test_who_waits_gets_a_slot_and_not_the_connection_of_another() -> None:
    async with FakeHop(proxied=True) as fake:
        fake.hold = asyncio.Event()
        sending = Sending(fake.port, identify="proxy-v2", connections=1)
        deliveries = [asyncio.create_task(deliver(sending, client)) for client in (EVE, IPV6, IPV6, EVE)]
        await fake.reached("held")
        fake.hold.set()
        outcomes = await asyncio.gather(*deliveries)
        assert {outcome.result for outcome in outcomes} == {Result.DELIVERED}
        assert [session.proxy[4:8] for session in fake.sessions] == [
            EVE.ip.packed,
            IPV6.ip.packed[:4],
            EVE.ip.packed,
        ]
        assert fake.peak == 1
        await sending.close()


async def test_a_probe_speaks_for_ourselves_and_keeps_no_client_from_his_slot() -> None:
    async with FakeHop(proxied=True) as fake:
        sending = Sending(fake.port, identify="proxy-v2", connections=1)
        await sending.hop.probe()
        assert (await deliver(sending, CLIENT)).result is Result.DELIVERED
        assert [session.proxy[:2] for session in fake.sessions] == [b"\x20\x00", b"\x21\x11"]
        await sending.close()


@pytest.mark.parametrize("implicit", [True, False])
async def test_the_header_comes_before_tls(implicit: bool, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.chain, certificates.key)
    heads: list[bytes] = []

    async def balance(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes the header off and hands on the rest, as the listener of a mailbox server would."""
        heads.append(await reader.readexactly(28))
        onward, back = await asyncio.open_connection("127.0.0.1", fake.port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while octets := await source.read(65536):
                target.write(octets)
            target.close()

        await asyncio.gather(copy(reader, back), copy(onward, writer))

    async with FakeHop(tls=context, implicit=implicit) as fake:
        server = await asyncio.start_server(balance, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sending = Sending(
            port,
            identify="proxy-v2",
            tls="implicit" if implicit else "required",
            ca=certificates.ca,
        )
        assert (await deliver(sending, EVE)).result is Result.DELIVERED
        assert heads == [proxy_header(EVE, "127.0.0.1", port)]
        await sending.close()
        await fake.all_closed()
        server.close()
