"""TLS and logins towards next hops: what each setting believes, and what it never sends in plain."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
import trustme

from relay import reply
from relay.clock import SystemClock
from relay.config.hop import Hop, HopTls
from relay.config.models import Timeout
from relay.errors import ConfigError
from relay.forward.deliver import SmtpHop
from relay.outcome import Outcome, Result
from tests.support.fake_hop import Action, Close, FakeHop, Reply, Reset, Stall
from tests.support.sending import ANN, CONTENT, Sending

VERIFYING = (HopTls.REQUIRED, HopTls.IMPLICIT)
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


def server(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def plain_mail(fake: FakeHop) -> list[bytes]:
    """What was said of the mail, or of a password, without TLS."""
    return [
        command
        for session in fake.sessions
        for command, secure in zip(session.commands, session.tls, strict=True)
        if not secure and not command.startswith((b"EHLO", b"STARTTLS", b"QUIT"))
    ]


def causes(sending: Sending) -> list[str]:
    return [str(fact.values["cause"]) for fact in sending.facts if fact.event == "forward.trouble"]


async def attempt(fake: FakeHop, **keys: object) -> tuple[Sending, Outcome]:
    sending = Sending(fake.port, **keys)
    (outcome,) = await sending.deliver(ANN)
    await sending.close()
    assert sending.hop.connections == 0
    return sending, outcome


# --- certificates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", VERIFYING)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_verified_hop_gets_the_mail_over_tls(authority: trustme.CA, ca: Path, tls: HopTls, host: str) -> None:
    context = server(authority.issue_cert("localhost", "127.0.0.1"))
    async with FakeHop(tls=context, implicit=tls is HopTls.IMPLICIT) as fake:
        sending, outcome = await attempt(fake, tls=tls, ca=ca, host=(host,))
        assert outcome.result is Result.DELIVERED
        assert fake.accepted == [CONTENT]
        assert plain_mail(fake) == []
        told = {fact.event: fact.values["tls"] for fact in sending.facts}
        assert told == {"forward.connected": "TLSv1.3", "forward.delivered": "TLSv1.3"}


def bad_certificates(authority: trustme.CA) -> dict[str, trustme.LeafCert]:
    return {
        "of an authority we do not know": trustme.CA().issue_cert("127.0.0.1"),
        "of another name": authority.issue_cert("other.example", "127.0.0.2"),
        "expired": authority.issue_cert("127.0.0.1", not_before=NOW - 9 * DAY, not_after=NOW - DAY),
        "not valid yet": authority.issue_cert("127.0.0.1", not_before=NOW + DAY, not_after=NOW + 9 * DAY),
        "for the common name only": authority.issue_cert("other.example", common_name="127.0.0.1"),  # RFC 6125 §6.4.4
    }


@pytest.mark.parametrize("which", bad_certificates(trustme.CA()))
async def test_a_certificate_that_does_not_verify(authority: trustme.CA, ca: Path, which: str) -> None:
    context = server(bad_certificates(authority)[which])
    for tls in VERIFYING:
        async with FakeHop(tls=context, implicit=tls is HopTls.IMPLICIT, login=True) as fake:
            sending, outcome = await attempt(fake, tls=tls, ca=ca, username="relay", password="secret")
            assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_TLS)
            assert plain_mail(fake) == []
            assert fake.accepted == []
            assert [fact.level for fact in sending.facts if fact.event == "forward.trouble"] == ["error"]
    async with FakeHop(tls=context) as fake:  # RFC 7435: better than plain
        sending, outcome = await attempt(fake, tls=HopTls.OPPORTUNISTIC)
        assert outcome.result is Result.DELIVERED
        assert plain_mail(fake) == []
        assert len(fake.sessions) == 1


async def test_the_systems_authorities_do_not_count_when_others_are_named(authority: trustme.CA, ca: Path) -> None:
    context = server(authority.issue_cert("127.0.0.1"))
    async with FakeHop(tls=context) as fake:
        _, outcome = await attempt(fake, tls=HopTls.REQUIRED)  # without `ca`: the system's
        assert outcome.reply == reply.HOP_TLS


async def test_we_show_our_own_certificate_when_asked(authority: trustme.CA, ca: Path, tmp_path: Path) -> None:
    ours = authority.issue_cert("relay.example.org")
    ours.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    ours.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    context = server(authority.issue_cert("127.0.0.1"))
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with FakeHop(tls=context) as fake:
        _, refused = await attempt(fake, tls=HopTls.REQUIRED, ca=ca)
        assert refused.result is Result.TEMPORARY
        keys = {"certificate": tmp_path / "client.pem", "key": tmp_path / "client.key"}
        _, outcome = await attempt(fake, tls=HopTls.REQUIRED, ca=ca, **keys)
        assert outcome.result is Result.DELIVERED


# --- STARTTLS (RFC 3207) -----------------------------------------------------------------------------


async def test_stripped_starttls_stops_required_and_not_opportunistic(ca: Path) -> None:
    async with FakeHop(login=True) as fake:
        _, outcome = await attempt(fake, tls=HopTls.REQUIRED, ca=ca, username="relay", password="secret")
        assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_TLS)
        assert outcome.cause == "starttls: STARTTLS is not offered"
        assert plain_mail(fake) == []
    async with FakeHop() as fake:
        _, outcome = await attempt(fake, tls=HopTls.OPPORTUNISTIC)
        assert outcome.result is Result.DELIVERED


@pytest.mark.parametrize(
    "action",
    [
        Reply("454 4.7.0 TLS not available"),
        Reply("502 5.5.1 what?"),
        None,  # 220, but no cipher in common
        Close(),
        Reset(),
        Stall(),
    ],
    ids=str,
)
async def test_starttls_that_fails(authority: trustme.CA, ca: Path, action: Action | None) -> None:
    context = server(authority.issue_cert("127.0.0.1"))
    if action is None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AES128-GCM-SHA256")
    async with FakeHop({"starttls": action} if action else {}, tls=context) as fake:
        _, outcome = await attempt(fake, tls=HopTls.REQUIRED, ca=ca, starttls=0.3)
        assert outcome.result is Result.TEMPORARY
        assert outcome.reply.code == 451
        assert plain_mail(fake) == []
    async with FakeHop({"starttls": action} if action else {}, tls=context) as fake:
        sending, outcome = await attempt(fake, tls=HopTls.OPPORTUNISTIC, starttls=0.3)
        assert outcome.result is Result.DELIVERED, "in plain, on a second connection"
        _, second = fake.sessions
        assert b"STARTTLS" not in second.commands
        assert plain_mail(fake) == [*second.commands[1:-1]], "all but EHLO and QUIT"
        assert [cause.partition(":")[0] for cause in causes(sending)] == ["starttls"]


@pytest.mark.parametrize("tls", [HopTls.REQUIRED, HopTls.OPPORTUNISTIC])
async def test_what_is_injected_behind_the_220_is_never_heard(authority: trustme.CA, ca: Path, tls: HopTls) -> None:
    """CVE-2011-0411 from the client's side: a reply said in plain must not answer what is asked over TLS."""

    class Injected(FakeHop):
        async def _do(self, stage, default, reader, writer):  # type: ignore[no-untyped-def]
            if stage == "starttls":
                # All in one segment: an EHLO answer that offers PIPELINING, and the mail's replies.
                writer.write(b"220 go\r\n250-evil\r\n250 XEVIL\r\n550 5.0.0 evil\r\n550 5.0.0 evil\r\n")
                return b"220 go\r\n"
            return await super()._do(stage, default, reader, writer)

    context = server(authority.issue_cert("127.0.0.1"))
    async with Injected(tls=context) as fake:
        _, outcome = await attempt(fake, tls=tls, ca=ca if tls is HopTls.REQUIRED else None)
        assert "evil" not in str(outcome)
        if outcome.result is Result.DELIVERED:
            assert fake.accepted == [CONTENT]
            assert all(command.startswith((b"EHLO", b"STARTTLS")) for command in fake.sessions[0].commands[:3])
        else:
            assert outcome.result is Result.TEMPORARY


async def test_what_was_offered_before_tls_is_forgotten(authority: trustme.CA, ca: Path) -> None:
    """RFC 3207 §4.2: the client asks EHLO again and discards what it knew."""
    plain = "250-hop.example\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250-PIPELINING\r\n250 SIZE 5"
    secure = "250-hop.example\r\n250 8BITMIME"
    async with FakeHop({"ehlo": [Reply(plain), Reply(secure)]}, tls=server(authority.issue_cert("127.0.0.1"))) as fake:
        _, outcome = await attempt(fake, tls=HopTls.REQUIRED, ca=ca)
        assert outcome.result is Result.DELIVERED, "a SIZE of 5 from before TLS counts no more"
        assert b"MAIL FROM:<ann@example.org>" in fake.commands


async def test_a_handshake_that_stalls_ends_with_its_phase(ca: Path) -> None:
    async with FakeHop({"greeting": Stall()}) as fake:
        _, outcome = await attempt(fake, tls=HopTls.IMPLICIT, ca=ca, greeting=0.3)
        assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_TIMEOUT)
        await fake.all_closed()


# --- logins (RFC 4954) -------------------------------------------------------------------------------

PLAIN = b"AUTH PLAIN AHJlbGF5AHPDqWNyZXQ="  # base64 of \0relay\0sécret in UTF-8, RFC 4616 §2


@pytest.mark.parametrize("tls", [HopTls.NONE, HopTls.OPPORTUNISTIC, HopTls.REQUIRED, HopTls.IMPLICIT])
async def test_a_login_on_loopback_or_verified_tls(authority: trustme.CA, ca: Path, tls: HopTls) -> None:
    context = None if tls is HopTls.NONE else server(authority.issue_cert("127.0.0.1"))
    async with FakeHop(tls=context, implicit=tls is HopTls.IMPLICIT, login=True) as fake:
        keys = {"ca": ca} if tls in VERIFYING else {}
        _, outcome = await attempt(fake, tls=tls, username="relay", password="sécret", **keys)
        assert outcome.result is Result.DELIVERED
        assert PLAIN in fake.commands


@pytest.mark.parametrize("tls", [HopTls.NONE, HopTls.OPPORTUNISTIC])
async def test_no_login_elsewhere_without_verified_tls(
    authority: trustme.CA, tls: HopTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.forward.connect.ip_address", lambda _: Elsewhere)
    context = None if tls is HopTls.NONE else server(authority.issue_cert("127.0.0.1"))
    async with FakeHop(tls=context, login=True) as fake:
        sending, outcome = await attempt(fake, tls=tls, username="relay", password="secret")
        assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_TROUBLE)
        assert causes(sending) == ["auth: a login needs tls required or implicit"]
        assert not any(command.startswith(b"AUTH") for command in fake.commands)


class Elsewhere:
    is_loopback = False


async def test_login_where_plain_is_not_offered() -> None:
    script: dict[str, list[Action]] = {"auth": [Reply("334 UGFzc3dvcmQ6")], "token": [Reply("235 2.7.0 welcome")]}
    async with FakeHop(script, extensions=("AUTH LOGIN CRAM-MD5",)) as fake:
        _, outcome = await attempt(fake, username="relay", password="secret")
        assert outcome.result is Result.DELIVERED
        assert fake.commands[1:3] == [b"AUTH LOGIN cmVsYXk=", b"c2VjcmV0"]


@pytest.mark.parametrize("offered", ["AUTH CRAM-MD5", "AUTH", "HELP"])
async def test_no_login_that_we_can_do_is_an_error_of_ours(offered: str) -> None:
    async with FakeHop(extensions=(offered,)) as fake:
        sending, outcome = await attempt(fake, username="relay", password="secret")
        assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_TROUBLE)
        assert causes(sending) == ["auth: neither PLAIN nor LOGIN is offered"]
        assert sending.facts[0].level == "error"


async def test_the_password_comes_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("sécret\n", "utf-8")
    async with FakeHop(login=True) as fake:
        _, outcome = await attempt(fake, username="relay", password_file=tmp_path / "password")
        assert outcome.result is Result.DELIVERED
        assert PLAIN in fake.commands


# --- files that cannot be used -----------------------------------------------------------------------


@pytest.mark.parametrize("key", ["ca", "certificate", "password_file"])
@pytest.mark.parametrize("content", [None, b"\xff junk"], ids=["missing", "junk"])
def test_a_file_that_cannot_be_used_stops_the_start(key: str, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    hop = Hop.model_construct(**Hop(host=("127.0.0.1",), tls=HopTls.REQUIRED).model_dump() | {key: path})
    with pytest.raises(ConfigError) as caught:
        SmtpHop("out", hop, Timeout(), "relay.example.org", SystemClock(), lambda fact: None)
    (problem,) = caught.value.problems
    assert problem.key == f"hop.out.{key}"
    assert str(path) in problem.text


def test_a_key_with_a_passphrase_is_refused_and_not_asked_for(authority: trustme.CA, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    ours = authority.issue_cert("relay.example.org")
    ours.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    key = serialization.load_pem_private_key(ours.private_key_pem.bytes(), None)
    (tmp_path / "client.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    hop = Hop(host=("127.0.0.1",), certificate=tmp_path / "client.pem", key=tmp_path / "client.key")
    with pytest.raises(ConfigError, match=r"hop\.out\.certificate"):
        SmtpHop("out", hop, Timeout(), "relay.example.org", SystemClock(), lambda fact: None)
