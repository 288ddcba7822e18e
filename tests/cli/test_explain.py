"""`relay explain`: the story of a message, by its id or by the message itself."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiosmtplib import SMTP, SMTPDataError
from click.testing import CliRunner, Result

from relay.__main__ import main
from relay.fact import Fact
from relay.report.explanation import kept
from relay.report.journal import CHECKED, EXPLAINED, Journal
from relay.verdict import SpfResult, SpfVerdict, Step
from tests.support.clock import JumpingClock
from tests.support.dns import Zone, dns_server
from tests.support.running import running
from tests.support.verdicts import verdicts

ZONE: Zone = {
    "theirs.org": [{"TXT": "v=spf1 ip4:192.0.2.1 -all"}, {"A": "192.0.2.1"}],
    "_dmarc.theirs.org": [{"TXT": "v=DMARC1; p=reject"}],
    "1.0.0.127.in-addr.arpa": [{"PTR": "client.theirs.org"}],
    "client.theirs.org": [{"A": "127.0.0.1"}],
}
MESSAGE = b"From: Eve <eve@theirs.org>\r\nSubject: x\r\n\r\nhello\r\n"
ID = "0d2x4c6v8b0n2m4k"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text(
        'hostname = "relay.test"\ndata = "data"\n[listener.c]\nrole = "capture"\nport = 1025\n'
    )


def relay(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(main, ["explain", *arguments], input=stdin)


def said(id: str) -> str:
    """The story, where there is one."""
    done = relay(id)
    assert done.exit_code == 0, done.stderr
    return done.stdout


async def recorded(*given: Fact, folder: Path = Path("data")) -> None:
    """A journal of these facts, all from the first second of 2026-11-21 12:00."""
    clock = JumpingClock()
    clock.jump(1_795_262_400.25 - clock.time())
    journal = Journal(folder / "journal.db", 86400.0, clock, lambda fact: pytest.fail(str(fact)))
    await journal.open()
    for fact in given:
        journal.record(fact)
    await journal.close()


async def sent(tmp_path: Path, policy: dict[str, Any]) -> str:
    """The reply to a message through a gateway that checks it."""
    async with dns_server(ZONE) as server:
        tables = {
            "listener": {"gateway": {"role": "gateway", "domains": ["ours.org"]}},
            "route": {"all": {"hop": "kept"}},
            "hop": {"kept": {"kind": "inbox"}},
            "dns": {"nameservers": [server.nameserver]},
            "policy": policy,
        }
        async with (
            running(tables, tmp_path / "data") as made,
            SMTP(hostname="127.0.0.1", port=made.port("gateway"), local_hostname="client.theirs.org") as client,
        ):
            try:
                return (await client.sendmail("eve@theirs.org", ["ann@ours.org"], MESSAGE))[1]
            except SMTPDataError as refused:
                return f"{refused.code} {refused.message}"


async def test_a_refusal_is_explained_by_the_id_in_the_reply(tmp_path: Path) -> None:
    reply = await sent(tmp_path, {"dmarc": {"reject": True}})
    assert reply.startswith("550 5.7.26 DMARC fail, policy of theirs.org is reject [")
    id = reply.rpartition("[")[2].removesuffix("]")
    lines = said(id).splitlines()
    events = [line.split(" ")[1] for line in lines if re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line)]
    wanted = ["accept.received", EXPLAINED, "decide.decided", "pipeline.answered"]
    assert [event for event in events if event in (*wanted, CHECKED)] == wanted
    assert "    SPF of MAIL FROM: fail, domain theirs.org, by -all" in lines
    assert "    DMARC: fail, From theirs.org, nothing is aligned, the domain asks for reject" in lines
    assert "    Reverse DNS of 127.0.0.1: pass, client.theirs.org (EHLO agrees)" in lines
    assert lines[-2:] == [
        "decision: refuse, by policy.dmarc.reject: DMARC fail, policy of theirs.org is reject",
        f"reply: {reply}",
    ]


async def test_a_message_that_came_through_is_explained_by_itself(tmp_path: Path) -> None:
    reply = await sent(tmp_path, {"mode": "monitor", "dmarc": {"reject": True}})
    kept_by_inbox = await asyncio.to_thread(CliRunner().invoke, main, ["inbox", "source", "latest"])
    delivered = kept_by_inbox.stdout_bytes
    # The mailbox server adds its own field, and keeps the message with the line ends of its system.
    kept = (b"Received: from relay.test by box.ours.org id none; date\r\n" + delivered).replace(b"\r\n", b"\n")
    Path("message.eml").write_bytes(kept)
    for done in (relay("message.eml"), relay("-", stdin=kept)):
        assert done.exit_code == 0, done.stderr
        assert "decision: refuse (monitored: accept was done), by policy.dmarc.reject" in done.stdout
        assert done.stdout.splitlines()[-1] == f"reply: 250 {reply}"


async def test_json_has_each_fact_with_its_time() -> None:
    decided = {"action": "accept", "applied": "accept", "rule": "", "reason": "", "override": ""}
    answered = {"to": ["ann@ours.org"], "reply": "250 2.0.0 ok"}
    await recorded(Fact("decide.decided", ID, decided), Fact("pipeline.answered", ID, answered, "warning"))
    assert json.loads(relay(ID, "--json").stdout) == {
        "id": ID,
        "facts": [
            {"time": "2026-11-21T12:00:00.250Z", "event": "decide.decided", "level": "info", "values": decided},
            {"time": "2026-11-21T12:00:00.250Z", "event": "pipeline.answered", "level": "warning", "values": answered},
        ],
        "decision": decided,
        "reply": "250 2.0.0 ok",
    }


async def test_values_are_told_as_in_the_log() -> None:
    await recorded(Fact("accept.rejected", ID, {"to": "ann@ours.org", "reply": "550 5.1.1 no such recipient here"}))
    assert said(ID).splitlines() == [
        '2026-11-21T12:00:00.250Z accept.rejected to=ann@ours.org reply="550 5.1.1 no such recipient here"',
        "reply: 550 5.1.1 no such recipient here",
    ]


async def test_a_message_without_an_answer_is_told_as_such() -> None:
    await recorded(Fact("accept.received", ID, {"size": 3}))
    assert said(ID).splitlines()[-1] == "reply: none that the journal knows of"


async def test_what_strangers_wrote_steers_no_terminal_and_makes_no_line() -> None:
    evil = "\x1b[31m\u202e\nreply: 250 ok\r\x07"
    spf = SpfVerdict(SpfResult.FAIL, evil, mechanism=evil, explanation=evil, problem=evil, trace=(Step(0, evil, evil),))
    await recorded(
        Fact("accept.received", ID, {"helo": evil, evil: [evil]}),
        Fact(EXPLAINED, ID, kept(verdicts(spf=spf)), "debug"),
        Fact("decide.decided", ID, {"action": evil, "applied": evil, "rule": evil, "reason": evil, "override": evil}),
        Fact("pipeline.answered", ID, {"reply": evil}),
    )
    told = said(ID)
    assert [character for character in told if not character.isprintable() and character != "\n"] == []
    assert [line for line in told.splitlines() if line.startswith("reply: 250")] == []
    assert json.loads(relay(ID, "--json").stdout)["reply"] == evil


async def test_it_reads_beside_a_relay_that_writes() -> None:
    clock = JumpingClock()
    journal = Journal(Path("data/journal.db"), 86400.0, clock, lambda fact: pytest.fail(str(fact)))
    await journal.open()
    for count in (1, 2):
        journal.record(Fact("accept.rejected", ID, {"reply": f"450 4.7.1 attempt {count}"}))
        await journal.flush()
        assert said(ID).endswith(f"reply: 450 4.7.1 attempt {count}\n")
    await journal.close()


async def test_a_folder_may_have_any_name() -> None:
    odd = Path("a?b#c%20d")
    await recorded(Fact("accept.rejected", ID, {"reply": "450 4.7.1 later"}), folder=odd)
    Path("config.toml").write_text(Path("config.toml").read_text().replace('"data"', f'"{odd}"'))
    assert said(ID).endswith("reply: 450 4.7.1 later\n")


async def test_an_id_that_is_not_there_is_exit_1() -> None:
    await recorded(Fact("accept.received", "0000000000000000"))
    done = relay(ID)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"data/journal.db has nothing about {ID}" in done.stderr


def test_no_journal_is_exit_1_and_none_is_made() -> None:
    done = relay(ID)
    assert done.exit_code == 1
    assert "there is no journal" in done.stderr
    assert not Path("data").exists()


def test_a_journal_that_is_none_is_exit_1() -> None:
    Path("data").mkdir()
    Path("data/journal.db").write_text("not a database at all, only some text that is long enough")
    done = relay(ID)
    assert done.exit_code == 1
    assert "journal.db cannot be read" in done.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"From: a@b.org\r\n\r\n", "no Received field in message.eml is by relay.test"),
        (b"Received: from a by other.test id 0d2x4c6v8b0n2m4k; date\r\n\r\n", "no Received field"),
        (b" no header\r\n\r\n", "message.eml is no message"),
        (None, "message.eml is neither an id"),
    ],
)
def test_a_file_that_is_not_from_here_is_exit_1(content: bytes | None, reason: str) -> None:
    if content is not None:
        Path("message.eml").write_bytes(content)
    done = relay("message.eml")
    assert done.exit_code == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [(), (ID, "-c", "missing.toml")])
def test_wrong_use_is_exit_2(arguments: tuple[str, ...]) -> None:
    assert relay(*arguments).exit_code == 2
