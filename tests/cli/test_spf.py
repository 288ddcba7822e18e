"""`relay spf`: the verdict, the way to it, and the exit code."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay.__main__ import main
from tests.support.dns import Zone, dns_server

ZONE: Zone = {
    "example.org": [{"TXT": "v=spf1 ip4:192.0.2.1 include:more.example.org -all exp=why.example.org"}],
    "more.example.org": [{"TXT": "v=spf1 ip4:192.0.2.2 ~all"}],
    "why.example.org": [{"TXT": "%{i} is not ours"}],
    "escape.example.org": [{"TXT": "v=spf1 \x1b[31m -all"}],
}


def relay(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["spf", *arguments])


async def over_dns(*arguments: str) -> Result:
    """In a thread: the server answers from the test's loop."""
    async with dns_server(ZONE) as server:
        return await asyncio.to_thread(relay, *arguments, "--dns", server.nameserver)


async def test_a_pass_is_exit_0_and_shows_the_way() -> None:
    done = await over_dns("192.0.2.2", "ann@example.org")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("TXT example.org: v=spf1 ip4:192.0.2.1")
    assert lines[0].endswith(" ms)")
    assert "ip4:192.0.2.1: no match: the client is 192.0.2.2" in lines
    assert "include:more.example.org: pass: more.example.org says pass" in lines
    assert "  ip4:192.0.2.2: pass: the client is 192.0.2.2" in lines
    assert lines[-2:] == ["pass: example.org: by include:more.example.org", "lookups 1 of 10, void lookups 0 of 2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("192.0.2.9", "ann@example.org"), "fail: example.org: by -all\nexplanation: 192.0.2.9 is not ours"),
        (("192.0.2.9", "<ann@more.example.org>"), "softfail: more.example.org: by ~all"),
        (("2001:db8::1", "more.example.org"), "softfail: more.example.org: by ~all"),
        (("192.0.2.9", "ann@missing.example.org"), "none: missing.example.org: missing.example.org has no SPF record"),
        (("192.0.2.9", "<>", "--helo", "more.example.org"), "softfail: more.example.org: by ~all"),
        (("192.0.2.9", "ann@escape.example.org"), "permerror: escape.example.org: "),
    ],
)
async def test_any_other_result_is_exit_1(arguments: tuple[str, ...], said: str) -> None:
    done = await over_dns(*arguments)
    assert done.exit_code == 1
    assert said in done.stdout
    assert "\x1b" not in done.stdout


async def test_json_has_all_of_the_verdict() -> None:
    done = await over_dns("192.0.2.9", "ann@example.org", "--json")
    assert done.exit_code == 1
    verdict = json.loads(done.stdout)
    assert (verdict["result"], verdict["mechanism"], verdict["explanation"]) == (
        "fail",
        "-all",
        "192.0.2.9 is not ours",
    )
    assert (verdict["lookups"], verdict["void_lookups"]) == (1, 0)
    assert [step["what"] for step in verdict["trace"] if step["seconds"]] == [
        "TXT example.org",
        "TXT more.example.org",
        "TXT why.example.org",
    ]


def test_a_zone_file_answers_instead(tmp_path: Path) -> None:
    zone = tmp_path / "zone"
    zone.write_text('$TTL 60\nexample.org. TXT "v=spf1 ip4:192.0.2.1 exists:%{l}.example.net -all"\n')
    assert relay("192.0.2.1", "ann@example.org", "--zone", str(zone)).exit_code == 0
    assert relay("192.0.2.2", '"a\\999"@example.org', "--zone", str(zone)).exit_code == 1
    assert relay("192.0.2.2", "ann@example.org", "--zone", str(zone)).exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("192.0.2.1",),
        ("192.0.2", "ann@example.org"),
        ("192.0.2.1", "<>"),
        ("192.0.2.1", "ann@example.org", "--dns", "example.org"),
        ("192.0.2.1", "ann@example.org", "--zone", "no-such-file"),
        ("192.0.2.1", "ann@example.org", "--zone", __file__),
        ("192.0.2.1", "ann@example.org", "--zone", __file__, "--dns", "127.0.0.1"),
    ],
)
def test_wrong_use_is_exit_2(arguments: tuple[str, ...]) -> None:
    done = relay(*arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr


def test_help() -> None:
    assert relay("--help").exit_code == 0
