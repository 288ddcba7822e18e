"""`relay config`, as a person at a terminal has it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay.cli.config import config
from relay.config.shipped import text
from tests.support.configuration import GOOD


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(GOOD)
    return path


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(config, arguments, env=environ)


def test_check_says_what_runs(file: Path) -> None:
    result = run("check", "-c", str(file))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{file}: OK",
        "  listener submission: submission on 127.0.0.1:2525",
        "  listener gateway: gateway on 0.0.0.0:2526",
        "  listener capture: capture on 127.0.0.1:1025",
        "  hop mailbox: mail.example.net:25, tls opportunistic",
    ]


def test_check_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("check")
    assert result.exit_code == 0
    assert result.stdout.startswith("embedded defaults: OK\n")
    assert "  signs example.org: rsa1 (rsa-sha256), ed1 (ed25519-sha256)\n" in result.stdout
    assert result.stdout.endswith("  hop next: the inbox\n")
    assert not list(tmp_path.iterdir())  # it only looks


def test_check_prints_warnings_and_exits_0(file: Path) -> None:
    file.write_text(GOOD.replace("port = 1025", 'port = 1025\nhost = "0.0.0.0"'))
    result = run("check", "-c", str(file))
    assert result.exit_code == 0
    assert result.stderr.startswith(f"relay: warning: {file}:18: listener.capture.host: ")


def test_check_takes_the_environment(file: Path) -> None:
    result = run("check", RELAY_CONFIG=str(file), RELAY_LISTENER__GATEWAY__PRT="1")
    assert result.exit_code == 2
    assert result.stderr == (
        "relay: environment RELAY_LISTENER__GATEWAY__PRT: unknown variable; "
        "did you mean RELAY_LISTENER__GATEWAY__PORT?\n"
    )


def test_check_as_json(file: Path) -> None:
    good = run("check", "--json", "-c", str(file))
    assert (good.exit_code, json.loads(good.stdout)) == (0, {"ok": True, "errors": [], "warnings": []})
    file.write_text(GOOD.replace("2525", "-1"))
    bad = run("check", "--json", "-c", str(file))
    assert bad.exit_code == 2
    (error,) = json.loads(bad.stdout)["errors"]
    assert (error["source"], error["key"]) == (f"{file}:5", "listener.submission.port")


def test_print_shows_what_is_in_force(file: Path) -> None:
    result = run("print", "-c", str(file), RELAY_LOG__LEVEL="debug")
    assert result.exit_code == 0
    assert tomllib.loads(result.stdout)["log"] == {"level": "debug"}
    assert '#format = "text"' in result.stdout
    as_json = json.loads(run("print", "--json", "-c", str(file)).stdout)
    assert as_json["timeout"]["final_dot"] == "10 min"


def test_print_shows_no_password(file: Path) -> None:
    file.write_text(GOOD + 'tls = "required"\nusername = "u"\n')
    for options in ([], ["--json"]):
        result = run("print", *options, "-c", str(file), RELAY_HOP__MAILBOX__PASSWORD="canary-7391")
        assert result.exit_code == 0
        assert "7391" not in result.output


def test_print_of_what_does_not_load(file: Path) -> None:
    file.write_text("x = 1\n")
    result = run("print", "-c", str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"relay: {file}:1: x: unknown key" in result.stderr


def test_print_shipped(file: Path) -> None:
    assert run("print", "--shipped", RELAY_CONFIG=str(file)).stdout == text()


def test_schema_is_json() -> None:
    schema = json.loads(run("schema").stdout)
    assert set(schema["required"]) == {"hostname", "listener"}
