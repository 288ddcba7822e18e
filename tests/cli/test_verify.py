"""`relay verify`: all checks of a message file, told, as JSON, and as an exit code."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay.__main__ import main
from relay.report.explanation import lines
from tests.support.dkim_signer import arc_sealed, dkim_signed, ed25519_key, record, rsa_key
from tests.support.dns import Zone, dns_server
from tests.support.suites import suite

ROOT = Path(__file__).parents[2]
PLAIN = b"From: Ann <ann@example.org>\r\nTo: bob@example.net\r\nSubject: x\r\n\r\nhello\r\n"
SIGNED = dkim_signed(PLAIN)
POLICY = "v=DMARC1; p=reject"
SPF = "v=spf1 ip4:192.0.2.1 -all"
NAMES = ["example.org", "_dmarc.example.org", "r._domainkey.example.org"]
ZONE: Zone = {name: [{"TXT": text}] for name, text in zip(NAMES, [SPF, POLICY, record(rsa_key())], strict=True)}


def zone(**more: str) -> str:
    """ZONE as a zone file, in which a TXT string has 255 octets at most (RFC 1035 §3.3)."""
    rows = ["$TTL 60"]
    for name, text in [*((name, records[0]["TXT"]) for name, records in ZONE.items()), *more.items()]:
        rows.append(f"{name}. TXT {' '.join(quoted(text[at : at + 200]) for at in range(0, len(text), 200))}")
    return "\n".join(rows) + "\n"


def quoted(text: str) -> str:
    return (
        '"' + "".join(char if char.isprintable() and char not in '"\\' else f"\\{ord(char):03}" for char in text) + '"'
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("zone").write_text(zone())


def relay(*arguments: str, message: bytes = SIGNED) -> Result:
    return CliRunner().invoke(main, ["verify", "-", *arguments], input=message)


def offline(
    *arguments: str, message: bytes = SIGNED, ip: str = "192.0.2.9", mail_from: str = "bounce@example.com"
) -> Result:
    """By the zone file; neither SPF nor HELO has anything to say for the author unless told so."""
    given = ("--ip", ip, "--helo", "client.example.com", "--mail-from", mail_from, "--zone", "zone")
    return relay(*given, *arguments, message=message)


def test_a_signature_of_the_author_domain_is_exit_0() -> None:
    done = offline()
    assert done.exit_code == 0, done.output
    told = done.stdout.splitlines()
    assert "DKIM signature 1: pass, d=example.org s=r, rsa-sha256 2048 bits, body hash matches" in told
    assert "DMARC: pass, From example.org, aligned by dkim" in told
    assert f"  _dmarc.example.org: {POLICY}" in told
    assert done.stderr == ""


def test_the_example_of_rfc_8463_passes_by_both_keys() -> None:
    """Appendix A: one mail with a signature by Ed25519 and one by RSA."""
    content = suite("rfc-examples", "rfc8463-appendix-a.txt").read_bytes()
    keys, _, message = content.partition(b"\n\n")
    Path("zone").write_text(zone(**dict(line.split(" ", 1) for line in keys.decode().splitlines()[:2])))
    done = offline("--json", "--second-opinion", message=message)
    found = json.loads(done.stdout)
    assert [(one["result"], one["algorithm"], one["domain"]) for one in found["dkim"]] == [
        ("pass", "ed25519-sha256", "football.example.com"),
        ("pass", "rsa-sha256", "football.example.com"),
    ]
    assert found["dkimpy"] == ["pass", "pass"]
    assert found["dmarc"]["result"] == "none"
    assert done.exit_code == 0


@pytest.mark.parametrize(
    ("message", "ip", "mail_from", "dmarc", "code"),
    [
        (PLAIN, "192.0.2.1", "bounce@example.org", "pass", 0),  # by SPF alone
        (PLAIN, "192.0.2.9", "bounce@example.org", "fail", 1),
        (PLAIN, "192.0.2.1", "<>", "fail", 1),
        (SIGNED + b"more\r\n", "192.0.2.9", "bounce@example.com", "fail", 1),
        (PLAIN.replace(b"example.org", b"example.net"), "192.0.2.9", "bounce@example.com", "none", 0),
        (b"From: eve@example.net\r\n" + SIGNED, "192.0.2.9", "bounce@example.com", "permerror", 1),
    ],
)
def test_the_exit_code_is_dmarcs(message: bytes, ip: str, mail_from: str, dmarc: str, code: int) -> None:
    done = offline("--json", message=message, ip=ip, mail_from=mail_from)
    assert (json.loads(done.stdout)["dmarc"]["result"], done.exit_code) == (dmarc, code)


def test_dns_trouble_is_no_pass() -> None:
    Path("zone").write_text(zone(**{"_trouble._dmarc.example.org": "SERVFAIL"}))
    done = offline("--json")
    assert (json.loads(done.stdout)["dmarc"]["result"], done.exit_code) == ("temperror", 1)


def test_json_is_what_the_explanation_is_made_of() -> None:
    found = json.loads(offline("--json").stdout)
    assert list(found) == [
        "spf",
        "helo",
        "dkim",
        "arc",
        "dmarc",
        "iprev",
        "seconds",
        "queries",
        "steps",
        "decision",
        "reply",
    ]
    assert found["iprev"]["ip"] == "192.0.2.9"
    assert (found["spf"]["result"], found["spf"]["domain"], found["spf"]["identity"]) == (
        "none",
        "example.com",
        "mailfrom",
    )
    assert (found["helo"]["domain"], found["helo"]["identity"]) == ("client.example.com", "helo")
    assert found["dmarc"]["published"] == {"p": "reject"}
    assert found["queries"] == len(found["steps"]) > 0

    def without_times(told: list[str]) -> list[str]:
        return [line.partition("  (")[0].rpartition(", ")[0] if " ms" in line else line for line in told]

    assert without_times(list(lines(found))) == without_times(offline().stdout.splitlines()[:-1])


def test_the_manual_names_every_key_and_no_other() -> None:
    """What reads the JSON relies on it."""
    manual = (ROOT / "docs" / "authentication.md").read_text()
    rows = re.findall(r"^\| (`[^|]*`) \| (.*) \|$", manual.partition("`relay verify --json`")[2], re.MULTILINE)
    named = {key: set(re.findall(r"`([a-z_]+)`", row)) for keys, row in rows for key in re.findall(r"`(\w+)`", keys)}
    found = json.loads(offline("--json", "--second-opinion").stdout)
    assert set(found) == set(named)
    assert set(found["decision"]) == named["decision"]
    values = {"mailfrom", "helo", "null", "spf", "dkim"}  # quoted in the rows, and no keys in there
    for key in ("spf", "helo", "dkim", "arc", "dmarc", "iprev"):
        keys = found[key][0] if key == "dkim" else found[key]
        assert set(keys) == named[key] - values, key
    assert set(found["steps"][0]) == {"depth", "what", "found", "seconds"}


@pytest.mark.parametrize(
    ("message", "ours", "theirs"),
    [
        (SIGNED, ["pass"], ["pass"]),
        (dkim_signed(SIGNED, {"s": "e", "a": "ed25519-sha256"}, ed25519_key()), ["pass", "pass"], ["pass", "pass"]),
        (SIGNED.replace(b"hello", b"hullo"), ["fail"], ["ValidationError"]),
        (SIGNED.replace(b"Subject: x", b"Subject: y"), ["fail"], ["fail"]),
        (PLAIN, [], []),
    ],
)
def test_dkimpy_agrees(message: bytes, ours: list[str], theirs: list[str]) -> None:
    Path("zone").write_text(zone(**{"e._domainkey.example.org": record(ed25519_key())}))
    found = json.loads(offline("--json", "--second-opinion", message=message).stdout)
    assert [one["result"] for one in found["dkim"]] == ours
    assert [word.partition(":")[0] for word in found["dkimpy"]] == theirs
    told = offline("--second-opinion", message=message).stdout.splitlines()
    assert [line.startswith("dkimpy on signature ") for line in told].count(True) == len(theirs)


def test_a_sealer_is_trusted_when_it_is_named() -> None:
    sealed = arc_sealed(SIGNED)
    assert "ARC: pass, sealed by example.org, not from a trusted sealer" in offline(message=sealed).stdout
    trusted = offline("--trusted-sealer", "example.org", message=sealed).stdout
    assert "ARC: pass, sealed by example.org, trusted" in trusted


def test_line_ends_of_a_file_become_those_of_mail_and_it_says_so() -> None:
    done = offline(message=SIGNED.replace(b"\r\n", b"\n"))
    assert done.exit_code == 0
    assert "CRLF" in done.stderr


def test_what_strangers_wrote_steers_no_terminal() -> None:
    Path("zone").write_text(
        zone(
            **{
                "example.com": "v=spf1 \x1b[31m -all",
                "_dmarc.example.net": "v=DMARC1; p=none; x=\x1b[2J\x9b",
                "e._domainkey.example.org": "v=DKIM1; k=\x1b[31m; p=AAAA",
            }
        )
    )
    message = dkim_signed(
        PLAIN.replace(b"ann@example.org", b"ann@example.net"), {"s": "e", "i": "\x1b[31m@example.org"}
    )
    done = offline("--second-opinion", message=message)
    assert "DMARC: " in done.stdout
    assert [char for char in done.stdout + done.stderr if not char.isprintable() and char != "\n"] == []


async def test_a_name_server_is_asked_over_the_network() -> None:
    """In a thread: the server answers from the test's loop."""
    given = ("--ip", "192.0.2.1", "--helo", "example.org", "--mail-from", "<ann@example.org>")
    async with dns_server(ZONE) as server:
        done = await asyncio.to_thread(relay, *given, "--dns", server.nameserver)
    assert done.exit_code == 0, done.output
    assert "DMARC: pass, From example.org, aligned by spf and dkim" in done.stdout
    assert {asked.name for asked in server.questions} >= set(NAMES)


GIVEN = ("--ip", "192.0.2.1", "--helo", "a.example", "--mail-from", "<>")


@pytest.mark.parametrize(
    "arguments",
    [
        GIVEN[:4],
        GIVEN[2:],
        ("--ip", "192.0.2", *GIVEN[2:]),
        (*GIVEN, "--zone", "missing"),
        (*GIVEN, "--zone", __file__),
        (*GIVEN, "--zone", "zone", "--dns", "127.0.0.1"),
        (*GIVEN, "--dns", "example.org"),
    ],
)
def test_wrong_use_is_exit_2(arguments: tuple[str, ...]) -> None:
    done = relay(*arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr


def test_a_file_that_is_missing_is_exit_2() -> None:
    assert CliRunner().invoke(main, ["verify", "missing.eml", *GIVEN]).exit_code == 2


def test_the_rule_that_fires_and_the_reply_are_told() -> None:
    shipped = (ROOT / "config.toml").read_text()
    Path("config.toml").write_text(shipped.replace("#reject = false", "reject = true ", 1))
    done = offline(message=PLAIN)
    assert "decision: refuse, by policy.dmarc.reject: DMARC fail, policy of example.org is reject" in done.stdout
    assert "reply: 550 5.7.26 DMARC fail, policy of example.org is reject" in done.stdout
