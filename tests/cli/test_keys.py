"""`relay keys`: what it makes, lists and prints."""

from __future__ import annotations

import json
import re
import stat
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay.__main__ import main

CONFIG = """
hostname = "localhost"
data = "{data}"
[listener.capture]
role = "capture"
port = 1025
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RELAY_CONFIG", raising=False)
    monkeypatch.delenv("RELAY_DATA", raising=False)
    return tmp_path


def relay(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["keys", *arguments])


def configured(folder: Path, *pasted: str) -> str:
    path = folder / "relay.toml"
    path.write_text(CONFIG.format(data=folder) + "".join(pasted))
    return str(path)


def test_what_new_prints_can_be_pasted(here: Path) -> None:
    made = relay("new", "Example.org", "--selector", "S1")
    assert made.exit_code == 0, made.output
    file = here / "data" / "keys" / "example.org.s1.pem"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert str(file) in made.output
    strings = re.findall(r'\t"([^"]*)"\n', made.output)
    assert len(strings) == 2
    assert max(map(len, strings)) == 255  # RFC 1035 §3.3
    pasted = made.output[made.output.index("[domain.") :]
    assert tomllib.loads(pasted)["domain"]["example-org"]["name"] == "example.org"
    config = configured(here, pasted)
    listed = relay("list", "--json", "-c", config)
    assert listed.exit_code == 0, listed.output
    assert json.loads(listed.output) == [
        {"domain": "example.org", "selector": "s1", "algorithm": "rsa-sha256", "file": str(file), "state": "ready"}
    ]
    printed = relay("dns", "-c", config)
    assert printed.exit_code == 0
    assert printed.output.strip() in made.output, "the record is the one that `new` printed"


def test_new_as_json(here: Path) -> None:
    made = relay("new", "example.org", "--algorithm", "ed25519-sha256", "--dir", str(here / "other"), "--json")
    assert made.exit_code == 0, made.output
    printed = json.loads(made.output)
    assert re.fullmatch(r"e20\d{6}", printed["selector"])
    assert printed["name"] == f"{printed['selector']}._domainkey.example.org"
    assert printed["value"].startswith("v=DKIM1; k=ed25519; p=")
    assert Path(printed["file"]) == here / "other" / f"example.org.{printed['selector']}.pem"
    assert Path(printed["file"]).is_file()


def test_relay_data_is_where_keys_go(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_DATA", str(here / "volume"))
    assert relay("new", "example.org", "--selector", "s1", "--algorithm", "ed25519-sha256").exit_code == 0
    assert (here / "volume" / "keys" / "example.org.s1.pem").is_file()


def test_a_key_is_made_once(here: Path) -> None:
    arguments = ("new", "example.org", "--selector", "s1", "--algorithm", "ed25519-sha256")
    assert relay(*arguments).exit_code == 0
    content = (here / "data" / "keys" / "example.org.s1.pem").read_bytes()
    again = relay(*arguments)
    assert again.exit_code == 2
    assert "never overwritten" in again.output
    assert (here / "data" / "keys" / "example.org.s1.pem").read_bytes() == content


@pytest.mark.parametrize(
    "arguments",
    [
        ("../../etc",),
        ("example..org",),
        ("",),
        ("example.org", "--selector", "../s"),
        ("example.org", "--selector", "/s"),
        ("example.org", "--selector", "a b"),
        ("example.org", "--algorithm", "rsa-sha1"),
    ],
)
def test_wrong_names_are_wrong_use(here: Path, arguments: tuple[str, ...]) -> None:
    assert relay("new", *arguments).exit_code == 2
    assert not list(here.iterdir())


def test_a_key_that_is_not_made_yet_is_a_finding(here: Path) -> None:
    key = '[domain.org]\nname = "example.org"\n[domain.org.key.a]\nselector = "a"\nfile = "a.pem"\ngenerate = true\n'
    config = configured(here, key)
    listed = relay("list", "-c", config)
    assert listed.exit_code == 1
    assert "not made yet" in listed.output
    printed = relay("dns", "-c", config)
    assert printed.exit_code == 1
    assert "not made yet" in printed.stderr


def test_dns_of_one_domain(here: Path) -> None:
    keys = []
    for domain in ("example.org", "bücher.example"):
        made = relay("new", domain, "--selector", "s1", "--algorithm", "ed25519-sha256")
        keys.append(made.output[made.output.index("[domain.") :])
    config = configured(here, *keys)
    printed = relay("dns", "bücher.example", "--json", "-c", config)
    assert printed.exit_code == 0
    assert [record["name"] for record in json.loads(printed.output)] == ["s1._domainkey.xn--bcher-kva.example"]
    assert len(json.loads(relay("dns", "--json", "-c", config).output)) == 2
    none = relay("dns", "example.net", "-c", config)
    assert none.exit_code == 1
    assert "example.net" in none.stderr


def test_a_configuration_that_does_not_load_is_exit_2(here: Path) -> None:
    for verb in ("list", "dns"):
        assert relay(verb, "-c", configured(here, "junk = 1\n")).exit_code == 2
        assert relay(verb, "-c", str(here / "none.toml")).exit_code == 2


@pytest.mark.parametrize("arguments", [(), ("new",), ("list",), ("dns",)])
def test_help(arguments: tuple[str, ...]) -> None:
    assert relay(*arguments, "--help").exit_code == 0
