"""Logins by token: how it is got, kept and renewed, how it is said, and what never gets into the log."""

from __future__ import annotations

import asyncio
import stat
from base64 import b64decode
from pathlib import Path

import pytest

from relay import reply
from relay.clock import SystemClock
from relay.config.hop import OAuth2
from relay.errors import ConfigError
from relay.forward.oauth import LIFETIME, MARGIN, MAX_ANSWER, Grant, Tokens, oauthbearer, read_answer
from relay.outcome import Result
from tests.support.clock import JumpingClock
from tests.support.fake_hop import Action, Close, FakeHop, Reply
from tests.support.sending import ANN, Sending
from tests.support.token_server import Answer, TokenServer, error, grant

SECRETS = ("s3cret-canary", "t0ken-canary", "refresh-canary")
NO = Reply("535 5.7.8 no")
# what Google and RFC 7628 §3.2.3 say in base64 before their 535
CHALLENGE = Reply("334 eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIn0=")


def settings(server: TokenServer, **keys: object) -> dict[str, object]:
    given = {"token_url": server.url, "client_id": "relay", "client_secret": "s3cret-canary"} | keys
    return {"username": "relay@example.org", "oauth2": {name: value for name, value in given.items() if value}}


def hop(script: dict[str, Action | list[Action]] | None = None, offered: str = "XOAUTH2 OAUTHBEARER") -> FakeHop:
    return FakeHop(script, login=offered)


def tokens(server: TokenServer, clock: JumpingClock, **keys: object) -> Tokens:
    oauth2 = OAuth2.model_validate(settings(server, **keys)["oauth2"])
    return Tokens("out", oauth2, 5.0, clock, lambda fact: None)


def logins(fake: FakeHop) -> list[bytes]:
    """What was said to AUTH, decoded."""
    return [b64decode(command.split()[2]) for command in fake.commands if command.startswith(b"AUTH ")]


def is_discreet(sending: Sending) -> bool:
    return not any(secret in repr(fact) for fact in sending.facts for secret in SECRETS)


# --- how it is said ---------------------------------------------------------------------------------


async def test_xoauth2() -> None:
    async with TokenServer(grant("t0ken-canary")) as server, hop() as fake:
        sending = Sending(fake.port, **settings(server, scope="https://mail.example/.default"))
        (outcome,) = await sending.deliver(ANN)
        assert outcome.result is Result.DELIVERED
        assert logins(fake) == [b"user=relay@example.org\x01auth=Bearer t0ken-canary\x01\x01"]
        # RFC 6749 §4.4.2
        assert server.asked == [
            {
                "grant_type": "client_credentials",
                "client_id": "relay",
                "client_secret": "s3cret-canary",
                "scope": "https://mail.example/.default",
            }
        ]
        assert is_discreet(sending)
        await sending.close()


async def test_oauthbearer() -> None:
    async with TokenServer(grant("t0ken-canary")) as server, hop() as fake:
        sending = Sending(fake.port, **settings(server, mechanism="oauthbearer"))
        (outcome,) = await sending.deliver(ANN)
        assert outcome.result is Result.DELIVERED
        assert fake.commands[1].startswith(b"AUTH OAUTHBEARER ")
        # RFC 7628 §3.1
        assert logins(fake) == [
            b"n,a=relay@example.org,\x01host=127.0.0.1\x01port=%d\x01auth=Bearer t0ken-canary\x01\x01" % fake.port
        ]
        await sending.close()


def test_oauthbearer_as_in_the_rfc() -> None:
    # RFC 7628 §4.1
    assert oauthbearer("user@example.com", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==", "server.example.com", 143) == (
        b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZG"
        b"OWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )
    # RFC 5801 §4: saslname
    assert b64decode(oauthbearer("a,b=c", "t", "h", 1)).startswith(b"n,a=a=2Cb=3Dc,\x01")


@pytest.mark.parametrize("mechanism", ["xoauth2", "oauthbearer"])
@pytest.mark.parametrize("challenge", [True, False])
async def test_a_refused_token_is_replaced_once(mechanism: str, challenge: bool) -> None:
    refused: dict[str, Action | list[Action]] = {"auth": [CHALLENGE if challenge else NO], "token": [NO]}
    async with TokenServer(grant("old"), grant("new")) as server, hop(refused) as fake:
        sending = Sending(fake.port, **settings(server, mechanism=mechanism))
        (outcome,) = await sending.deliver(ANN)
        assert outcome.result is Result.DELIVERED
        assert [b"Bearer " + word in login for word, login in zip((b"old", b"new"), logins(fake), strict=True)] == [
            True,
            True,
        ]
        if challenge:
            # RFC 7628 §3.2.3: %x01 in base64; XOAUTH2: an empty line
            assert fake.commands[2] == (b"AQ==" if mechanism == "oauthbearer" else b"")
        assert len(fake.sessions) == 1
        await sending.close()


async def test_a_hop_that_refuses_every_token_is_an_error_of_ours() -> None:
    async with TokenServer(grant("t0ken-canary")) as server, hop({"auth": CHALLENGE, "token": NO}) as fake:
        sending = Sending(fake.port, **settings(server))
        (outcome,) = await sending.deliver(ANN)
        assert (outcome.result, outcome.reply, outcome.cause) == (Result.TEMPORARY, reply.HOP_TROUBLE, "auth: 535")
        assert len(logins(fake)) == len(server.asked) == 2
        assert [fact.level for fact in sending.facts if fact.event == "forward.trouble"] == ["error"]
        assert is_discreet(sending)
        await sending.close()


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ({"auth": Reply("454 4.7.0 later")}, "auth: 454"),
        ({"auth": Close()}, "auth: connection closed"),
        ({"auth": Reply("421 4.3.0 bye")}, "auth: 421"),
    ],
)
async def test_no_second_token_for_what_says_nothing_of_the_first(script: dict[str, Action], cause: str) -> None:
    async with TokenServer(grant("t0ken-canary")) as server, hop({**script}) as fake:
        sending = Sending(fake.port, **settings(server))
        (outcome,) = await sending.deliver(ANN)
        assert (outcome.result, outcome.cause) == (Result.TEMPORARY, cause)
        assert len(server.asked) == 1
        await sending.close()


async def test_no_token_is_asked_for_where_it_is_of_no_use() -> None:
    async with TokenServer(grant("t0ken-canary")) as server, hop(offered="PLAIN LOGIN") as fake:
        sending = Sending(fake.port, **settings(server))
        (outcome,) = await sending.deliver(ANN)
        assert (outcome.result, outcome.cause) == (Result.TEMPORARY, "auth: XOAUTH2 is not offered")
        assert (server.asked, logins(fake)) == ([], [])
        await sending.close()


# --- how it is got and kept -------------------------------------------------------------------------


async def test_one_question_for_all_connections() -> None:
    async with TokenServer(grant("t")) as server, hop() as fake:
        server.hold = fake.hold = asyncio.Event()
        sending = Sending(fake.port, **settings(server))
        deliveries = [asyncio.create_task(sending.deliver(ANN)) for _ in range(5)]
        await fake.reached("ehlo", 5)
        await server.came.wait()
        server.hold.set()
        assert {outcome.result for (outcome,) in await asyncio.gather(*deliveries)} == {Result.DELIVERED}
        assert (len(fake.sessions), len(server.asked)) == (5, 1)
        await sending.close()


async def test_it_is_renewed_before_it_ends() -> None:
    async with TokenServer(grant("one"), grant("two"), grant("three")) as server:
        clock = JumpingClock()
        kept = tokens(server, clock)
        assert await kept.get() == "one"
        clock.jump(3600 - MARGIN - 1)
        assert await kept.get() == "one"
        clock.jump(1)
        assert await kept.get() == "two"
        assert await kept.get(refused="one") == "two", "another connection has renewed it already"
        assert await kept.get(refused="two") == "three"
        assert len(server.asked) == 3


async def test_a_question_outlives_who_asked_it() -> None:
    """Its answer may hold the next refresh token, and there is no second one."""
    async with TokenServer(grant("t", refresh_token="refresh-canary-2"), grant("u")) as server:
        server.hold = asyncio.Event()
        kept = tokens(server, JumpingClock(), refresh_token="refresh-canary-1")
        asking = asyncio.create_task(kept.get())
        await server.came.wait()
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        server.hold.set()
        assert await kept.get() == "t"
        assert await kept.get(refused="t") == "u"
        assert [form["refresh_token"] for form in server.asked] == ["refresh-canary-1", "refresh-canary-2"]


async def test_closing_leaves_nobody_without_his_token() -> None:
    async with TokenServer(grant("t")) as server, hop() as fake:
        server.hold = asyncio.Event()
        sending = Sending(fake.port, **settings(server))
        delivery = asyncio.create_task(sending.deliver(ANN))
        await server.came.wait()
        closing = asyncio.create_task(sending.close())
        await asyncio.sleep(0)
        server.hold.set()
        ((outcome,), _) = await asyncio.gather(delivery, closing)
        assert outcome.result is Result.DELIVERED
        await fake.all_closed()


# --- refresh tokens (RFC 6749 §6) -------------------------------------------------------------------


async def test_a_refresh_token_from_a_file_is_replaced_there(tmp_path: Path) -> None:
    file = tmp_path / "refresh-token"
    file.write_text("refresh-canary-1\n")
    file.chmod(0o640)
    answers = grant("t", refresh_token="refresh-canary-2"), grant("u"), grant("v")
    async with TokenServer(*answers) as server, hop({"auth": [NO]}) as fake:
        sending = Sending(fake.port, **settings(server, refresh_token_file=file, client_secret=None))
        (outcome,) = await sending.deliver(ANN)
        assert outcome.result is Result.DELIVERED
        first, second = server.asked
        assert first == {"grant_type": "refresh_token", "client_id": "relay", "refresh_token": "refresh-canary-1"}
        assert second["refresh_token"] == "refresh-canary-2"
        assert file.read_text() == "refresh-canary-2\n"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["refresh-token"]
        assert is_discreet(sending)
        # an operator logs in anew and puts the result there
        file.write_text("refresh-canary-3")
        fake.script["auth"] = [NO]
        await sending.close()
        await sending.deliver(ANN)
        assert server.asked[-1]["refresh_token"] == "refresh-canary-3"
        await fake.all_closed()


async def test_a_refresh_token_that_cannot_be_written_is_used_and_told(tmp_path: Path) -> None:
    file = tmp_path / "gone" / "refresh-token"
    file.parent.mkdir()
    file.write_text("refresh-canary-1")
    answers = grant("t", refresh_token="refresh-canary-2"), grant("u")
    async with TokenServer(*answers) as server, hop({"auth": [NO]}) as fake:
        sending = Sending(fake.port, **settings(server, refresh_token_file=file))
        file.unlink()
        file.parent.rmdir()
        (outcome,) = await sending.deliver(ANN)
        assert outcome.result is Result.DELIVERED
        assert [form["refresh_token"] for form in server.asked] == ["refresh-canary-1", "refresh-canary-2"]
        (fact,) = [fact for fact in sending.facts if fact.event == "forward.token_not_kept"]
        assert fact.level == "error"
        assert is_discreet(sending)
        await sending.close()


@pytest.mark.parametrize("key", ["client_secret_file", "refresh_token_file"])
def test_a_file_that_is_not_there_is_an_error_at_the_start(key: str, tmp_path: Path) -> None:
    oauth2 = OAuth2.model_validate({"token_url": "https://x.example/", "client_id": "r", key: tmp_path / "none"})
    with pytest.raises(ConfigError) as caught:
        Tokens("out", oauth2, 5.0, SystemClock(), lambda fact: None)
    assert f"hop.out.oauth2.{key}" in str(caught.value)


# --- when there is none -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "cause", "level"),
    [
        (error("invalid_client", 401), "auth: token: invalid_client", "error"),
        (error("invalid_grant"), "auth: token: invalid_grant", "error"),
        (error("temporarily_unavailable", 503), "auth: token: temporarily_unavailable", "warning"),
        (error("slow_down", 429), "auth: token: slow_down", "warning"),
        (error("s3cret-canary", 400), "auth: token: HTTP 400", "error"),  # no code of RFC 6749 §5.2
        (Answer(b"<html>", 502), "auth: token: HTTP 502", "warning"),
        (Answer(b"http://127.0.0.1:1/elsewhere", 307), "auth: token: HTTP 307", "error"),
        (Answer(b"<html>"), "auth: token: none in the answer", "warning"),
        (Answer(["t0ken-canary"]), "auth: token: none in the answer", "warning"),
        (grant("t0ken-canary\x01auth=x"), "auth: token: none in the answer", "warning"),
        (Answer({"access_token": "t0ken-canary", "token_type": "mac"}), "auth: token: not a bearer token", "warning"),
        (Answer(b" " * (MAX_ANSWER + 1)), "auth: token: ValueError", "warning"),
        (Answer({}, stall=True), "auth: ", "warning"),
    ],
)
async def test_no_token_is_trouble_of_ours(answer: Answer, cause: str, level: str) -> None:
    async with TokenServer(answer) as server, hop() as fake:
        sending = Sending(fake.port, **settings(server), auth=0.5)
        (outcome,) = await sending.deliver(ANN)
        assert outcome.result is Result.TEMPORARY
        assert outcome.reply.code == 451
        assert outcome.cause.startswith(cause)
        assert [fact.level for fact in sending.facts if fact.event == "forward.trouble"] == [level]
        assert logins(fake) == []
        assert is_discreet(sending)
        assert "canary" not in str(outcome.reply)
        await sending.close()


async def test_a_token_server_that_is_not_there_is_trouble_of_ours() -> None:
    async with TokenServer(grant("t")) as server:
        pass
    async with hop() as fake:
        sending = Sending(fake.port, **settings(server))
        (outcome,) = await sending.deliver(ANN)
        assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_UNREACHABLE)
        await sending.close()


@pytest.mark.parametrize(
    ("lifetime", "expected"),
    [
        (b"3599", 3599.0),
        (b'"3599"', 3599.0),  # seen in the wild
        (b"null", LIFETIME),
        (b"[]", LIFETIME),
        (b'"soon"', LIFETIME),
        (b"-5", 0.0),
        (b"1e99", 86400.0),
        (b"NaN", 0.0),
    ],
)
def test_the_lifetime_that_is_believed(lifetime: bytes, expected: float) -> None:
    body = b'{"access_token":"t","token_type":"bearer","expires_in":%s}' % lifetime
    assert read_answer(200, body) == Grant("t", expected, "")
