"""AUTH PLAIN and LOGIN over real connections: RFC 4954, attacks D11, D12, and R27."""

from base64 import b64encode
from typing import Any

import argon2
import pytest

from relay import reply
from relay.accept.login import Logins, check_argon2
from relay.config import models
from tests.support.certificates import Certificates
from tests.support.clock import JumpingClock
from tests.support.smtp_client import SmtpClient, code, smtp_client
from tests.support.stages import Scripted, listening

HASH = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("correct horse")
OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>"]
SUBMISSION: dict[str, Any] = {"role": "submission", "allow_plaintext_login": True}


class Hashes:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, hashed: str, password: str) -> bool:
        self.count += 1
        return check_argon2(hashed, password)


@pytest.fixture
def hashes() -> Hashes:
    return Hashes()


@pytest.fixture
def logins(hashes: Hashes):
    made = Logins({"app": (HASH, ("*",))}, models.Login(), clock=JumpingClock(), key=b"k" * 32, check=hashes)
    yield made
    made.close()


def tables(**more: Any) -> dict[str, Any]:
    return {
        "listener": {"submission": SUBMISSION | more.pop("listener", {})},
        "limit": {"login_failures": 50, "errors": 90},
        **more,
    }


def plain(name: str = "app", password: str = "correct horse", identity: str = "") -> bytes:
    return b64encode(f"{identity}\0{name}\0{password}".encode())


def b64(text: str) -> bytes:
    return b64encode(text.encode())


async def greeted(client: SmtpClient) -> None:
    await client.read()
    await client.say(OPEN[0])


@pytest.mark.parametrize(
    ("lines", "last"),
    [
        ([b"AUTH PLAIN " + plain()], "235 2.7.0"),
        ([b"auth plain " + plain()], "235 2.7.0"),
        ([b"AUTH PLAIN " + plain(identity="app")], "235 2.7.0"),
        ([b"AUTH PLAIN", plain()], "235 2.7.0"),
        ([b"AUTH LOGIN", b64("app"), b64("correct horse")], "235 2.7.0"),
        ([b"AUTH LOGIN " + b64("app"), b64("correct horse")], "235 2.7.0"),
        ([b"AUTH PLAIN " + plain(password="wrong")], "535 5.7.8"),
        ([b"AUTH PLAIN " + plain(name="nobody")], "535 5.7.8"),
        ([b"AUTH PLAIN " + plain(identity="root")], "535 5.7.8"),
        ([b"AUTH LOGIN", b64("app"), b64("wrong")], "535 5.7.8"),
        ([b"AUTH PLAIN " + b64encode(b"\0app\0\xff\xfe")], "535 5.7.8"),
        # D12: cancelled, not base64, NULs, nothing, a mechanism that is not
        ([b"AUTH PLAIN", b"*"], "501 5.7.0"),
        ([b"AUTH LOGIN", b64("app"), b"*"], "501 5.7.0"),
        ([b"AUTH PLAIN !!!!"], "501 5.5.2"),
        ([b"AUTH PLAIN", b"abc"], "501 5.5.2"),
        ([b"AUTH PLAIN " + plain() + b"\xc3"], "500 5.5.2"),
        ([b"AUTH PLAIN ="], "501 5.5.2"),
        ([b"AUTH PLAIN " + b64encode(b"\0app\0correct\0horse")], "501 5.5.2"),
        ([b"AUTH PLAIN " + b64encode(b"app\0correct horse")], "501 5.5.2"),
        ([b"AUTH PLAIN " + b64encode(b"\0\0\0")], "501 5.5.2"),
        ([b"AUTH LOGIN", b64("a\0b"), b64("x")], "501 5.5.2"),
        ([b"AUTH LOGIN", b"", b64("x")], "501 5.5.2"),
        ([b"AUTH"], "501 5.5.4"),
        ([b"AUTH PLAIN a b"], "501 5.5.4"),
        ([b"AUTH CRAM-MD5"], "504 5.5.4"),
        ([b"AUTH PLAIN " + b"A" * 12_270], "501 5.5.2"),  # RFC 4954 §4: a line of 12288
        ([b"AUTH PLAIN " + b"A" * 12_280], "500 5.5.6"),
    ],
)
async def test_each_exchange_has_its_end(logins: Logins, lines: list[bytes], last: str) -> None:
    stages = Scripted()
    async with (
        listening(stages, tables(), logins=logins) as relay,
        smtp_client(relay.address("submission")) as client,
    ):
        await greeted(client)
        codes = await client.converse(*lines)
        assert codes == ["334"] * (len(lines) - 1) + [last]
        for fact in relay.of("login"):
            assert set(fact.values) == {"name", "result", "ip"}
        assert "correct" not in repr(relay.facts)
        assert "wrong" not in repr(relay.facts)
        # The session goes on, logged in or not.
        assert code(await client.say(OPEN[1])) == "250 2.1.0"


async def test_the_prompts_of_login_are_the_usual_ones(logins: Logins) -> None:
    async with (
        listening(Scripted(), tables(), logins=logins) as relay,
        smtp_client(relay.address("submission")) as client,
    ):
        await greeted(client)
        assert await client.say(b"AUTH LOGIN") == "334 VXNlcm5hbWU6"
        assert await client.say(b64("app")) == "334 UGFzc3dvcmQ6"
        assert await client.say(b64("correct horse")) == "235 2.7.0 logged in"
        assert await client.say(b"AUTH PLAIN") == "503 5.5.1 bad sequence of commands"


async def test_the_login_stands_in_the_envelope(logins: Logins) -> None:
    stages = Scripted()
    async with (
        listening(stages, tables(), logins=logins) as relay,
        smtp_client(relay.address("submission")) as client,
    ):
        await greeted(client)
        await client.converse(b"AUTH PLAIN " + plain(), OPEN[1], b"RCPT TO:<bob@example.net>", b"DATA", b"x\r\n.")
        assert stages.received[0][0].client.login == "app"


async def test_auth_where_it_does_not_belong(logins: Logins) -> None:
    async with (
        listening(Scripted(), tables(), logins=logins) as relay,
        smtp_client(relay.address("submission")) as client,
    ):
        await client.read()
        assert code(await client.say(b"AUTH PLAIN " + plain())) == "503 5.5.1"
        assert await client.converse(b"HELO x", b"AUTH PLAIN " + plain()) == ["250", "503 5.5.1"]
        assert await client.converse(*OPEN, b"AUTH PLAIN " + plain()) == ["250", "250 2.1.0", "503 5.5.1"]


async def test_without_tls_no_password_is_asked_for(logins: Logins, certificates: Certificates, hashes: Hashes) -> None:
    pair = {"certificate": str(certificates.chain), "key": str(certificates.key)}
    starttls = {"listener": {"allow_plaintext_login": False, "tls": "starttls", **pair}}
    async with (
        listening(Scripted(), tables(**starttls), logins=logins) as relay,
        smtp_client(relay.address("submission")) as client,
    ):
        await client.read()
        assert "AUTH" not in await client.say(OPEN[0])
        assert code(await client.say(b"AUTH PLAIN " + plain())) == "538 5.7.11"
        assert hashes.count == 0
        await client.say(b"STARTTLS")
        await client.start_tls(certificates.client_context())
        assert "AUTH PLAIN LOGIN" in await client.say(OPEN[0])
        assert code(await client.say(b"AUTH PLAIN " + plain())) == "235 2.7.0"


async def test_implicit_tls_offers_auth(logins: Logins, certificates: Certificates) -> None:
    pair = {"certificate": str(certificates.chain), "key": str(certificates.key)}
    implicit = {"listener": {"allow_plaintext_login": False, "tls": "implicit", **pair}}
    async with (
        listening(Scripted(), tables(**implicit), logins=logins) as relay,
        smtp_client(relay.address("submission"), tls=certificates.client_context()) as client,
    ):
        await client.read()
        assert "AUTH PLAIN LOGIN" in await client.say(OPEN[0])
        assert code(await client.say(b"AUTH PLAIN " + plain())) == "235 2.7.0"


async def test_starttls_is_too_late_after_a_login(logins: Logins, certificates: Certificates) -> None:
    pair = {"certificate": str(certificates.chain), "key": str(certificates.key)}
    given = tables(listener={"tls": "starttls", **pair})
    async with listening(Scripted(), given, logins=logins) as relay, smtp_client(relay.address("submission")) as client:
        await greeted(client)
        assert await client.converse(b"AUTH PLAIN " + plain(), b"STARTTLS") == ["235 2.7.0", "503 5.5.1"]


async def fail(address: tuple[str, int], ip: str, name: str) -> str:
    """One wrong password from `ip`, behind a load balancer."""
    async with smtp_client(address) as client:
        client.send(b"PROXY TCP4 %s 203.0.113.254 1024 587\r\n" % ip.encode())
        await greeted(client)
        return code(await client.say(b"AUTH PLAIN " + plain(name, "wrong")))


async def test_100_failures_are_cut_off_every_three_and_harm_nobody_else(logins: Logins, hashes: Hashes) -> None:
    """R27: every failure costs one hash, known name or not, and no session gets a fourth."""
    given = {"listener": {"submission": SUBMISSION}, "limit": {"login_failures": 3}}
    failures = 0
    async with (
        listening(Scripted(), given, logins=logins) as relay,
        smtp_client(relay.address("submission")) as good,
    ):
        await greeted(good)
        assert code(await good.say(b"AUTH PLAIN " + plain())) == "235 2.7.0"
        assert hashes.count == 1
        while failures < 100:
            async with smtp_client(relay.address("submission")) as client:
                await greeted(client)
                for _ in range(3):
                    # Nine for a name that exists, the others each for one that does not.
                    name = "app" if failures < 9 else f"user{failures}"
                    assert code(await client.say(b"AUTH PLAIN " + plain(name, "wrong"))) == "535 5.7.8"
                    failures += 1
                assert [code(text) for text in await client.rest()] == ["421 4.7.0"]
        assert hashes.count == 1 + failures
        assert code(await good.say(OPEN[1])) == "250 2.1.0"


@pytest.mark.parametrize(
    ("guesses", "locked"),
    [
        # D11: one address and many names; many addresses and one name, known or not
        ([("203.0.113.1", f"user{number}") for number in range(10)], ("203.0.113.1", "other")),
        ([(f"203.0.113.{number}", "app") for number in range(10)], ("203.0.113.99", "app")),
        ([(f"203.0.113.{number}", "nobody") for number in range(10)], ("203.0.113.99", "nobody")),
    ],
)
async def test_guesses_over_many_connections_are_locked_out_without_a_hash(
    logins: Logins, hashes: Hashes, guesses: list[tuple[str, str]], locked: tuple[str, str]
) -> None:
    given = tables(listener={"proxy_from": ["127.0.0.0/8"]})
    async with listening(Scripted(), given, logins=logins) as relay:
        address = relay.address("submission")
        assert [await fail(address, ip, name) for ip, name in guesses] == ["535 5.7.8"] * 10
        assert await fail(address, *locked) == "454 4.7.0"
        assert hashes.count == 10
        # Others, at other addresses and with other names, go on.
        assert await fail(address, "203.0.113.200", "another") == "535 5.7.8"
        assert [fact.values["result"] for fact in relay.of("login")][-2:] == ["locked", "failed"]


async def test_a_client_that_is_known_is_not_locked_out_by_strangers(logins: Logins, hashes: Hashes) -> None:
    """R27: whoever has logged in from his address lately goes on, while others guess at his name."""
    given = tables(listener={"proxy_from": ["127.0.0.0/8"]})
    async with listening(Scripted(), given, logins=logins) as relay:
        address = relay.address("submission")

        async def log_in(ip: str) -> str:
            async with smtp_client(address) as client:
                client.send(b"PROXY TCP4 %s 203.0.113.254 1024 587\r\n" % ip.encode())
                await greeted(client)
                return code(await client.say(b"AUTH PLAIN " + plain()))

        assert await log_in("203.0.113.1") == "235 2.7.0"
        for number in range(100, 120):
            await fail(address, f"203.0.113.{number}", "app")
        assert hashes.count == 11
        assert await log_in("203.0.113.1") == "235 2.7.0"
        assert await log_in("203.0.113.2") == "454 4.7.0"  # the right password too: it is not looked at
        # But his address is no way around the lock.
        assert [await fail(address, "203.0.113.1", "app") for _ in range(10)] == ["535 5.7.8"] * 10
        assert await log_in("203.0.113.1") == "454 4.7.0"


async def test_who_tries_on_while_locked_out_loses_his_session(logins: Logins) -> None:
    given = {"listener": {"submission": SUBMISSION}, "login": {"failures": 1}, "limit": {"login_failures": 3}}
    async with (
        listening(Scripted(), given, logins=logins) as relay,
        smtp_client(relay.address("submission")) as client,
    ):
        await greeted(client)
        wrong = b"AUTH PLAIN " + plain(password="wrong")
        assert await client.converse(wrong, wrong, wrong) == ["535 5.7.8", "454 4.7.0", "454 4.7.0"]
        assert [code(text) for text in await client.rest()] == ["421 4.7.0"]


async def test_a_busy_relay_says_try_again(logins: Logins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "_hashing", 2)
    async with (
        listening(Scripted(), tables(), logins=logins) as relay,
        smtp_client(relay.address("submission")) as client,
    ):
        await greeted(client)
        assert code(await client.say(b"AUTH PLAIN " + plain())) == f"454 {reply.LOGIN_BUSY.enhanced}"
