"""The shipped file, the examples, and what `render` prints: all of it loads to what it came from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from relay.config.models import Config
from relay.config.shipped import render, text
from relay.config.source import load, read
from tests.support.certificates import make_certificates
from tests.support.configuration import GOOD

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.toml"))
SCHEMA = Config.model_json_schema()


def test_the_file_in_the_repository_is_the_shipped_text() -> None:
    assert (ROOT / "config.toml").read_text() == text(), "run: relay config print --shipped > config.toml"


def test_the_relay_runs_on_that_text_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    without = load(None, {})
    (tmp_path / "config.toml").write_text(text())
    assert load(None, {}) == without


def test_it_is_one_relay_for_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = read(None, {})
    config = loaded.config
    assert not loaded.warnings
    assert {name: (one.role, one.host, one.port) for name, one in config.listener.items()} == {
        "submission": ("submission", "127.0.0.1", 2525),
        "gateway": ("gateway", "127.0.0.1", 2526),
        "capture": ("capture", "127.0.0.1", 1025),
    }
    assert (config.web.host, config.web.port) == ("127.0.0.1", 8025)
    assert {key.algorithm for key in config.domain["example"].key.values()} == {"rsa-sha256", "ed25519-sha256"}
    assert len({key.selector for key in config.domain["example"].key.values()}) == 2
    assert all(key.generate for key in config.domain["example"].key.values())
    assert [hop.kind for hop in config.hop.values()] == ["inbox"]
    assert config.data == tmp_path / "data"


def test_every_key_of_the_models_is_in_it() -> None:
    def fields(schema: dict[str, object]) -> set[str]:
        return {
            name
            for model, one in schema["$defs"].items()  # type: ignore[attr-defined]
            for name in one.get("properties", {})
        }

    for name in fields(SCHEMA):
        # a setting, or a table: [listener.submission.sni.other], [hop.next.oauth2]
        assert re.search(rf"^#?({name} = |\[[^]]*\b{name}\b)", text(), re.MULTILINE), name


def test_three_lines_make_a_real_next_hop(tmp_path: Path) -> None:
    changed = text()
    for old, new in (
        ('hostname = "localhost"', 'hostname = "relay.example.org"'),  # (1)
        ('kind = "inbox"', '#kind = "inbox"'),  # (2)
        ('#host = ["smtp.example.net"]', 'host = ["smtp.example.net"]'),  # (3)
    ):
        assert changed.count(f"\n{old}") == 1
        changed = changed.replace(f"\n{old}", f"\n{new}")
    (tmp_path / "config.toml").write_text(changed)
    loaded = read(tmp_path / "config.toml", {})
    assert loaded.config.hop["next"].host == ("smtp.example.net",)
    assert not loaded.warnings


def test_what_is_shown_as_a_default_is_one(tmp_path: Path) -> None:
    """Every `#key = value` and `#[table]` may be taken out of its comment: it is TOML and the models know it."""
    taken_out = re.sub(r"^#(?=[a-z0-9_]+ = |\[)", "", text(), flags=re.MULTILINE)
    from relay.config.explain import explain

    tree = tomllib.loads(taken_out)
    try:
        Config.model_validate(tree)
    except ValueError as error:
        raise AssertionError([explain(one, False) for one in error.errors()]) from None  # type: ignore[attr-defined]


def prepare(folder: Path, content: str) -> Path:
    """An example in a folder with the secrets it names, and its keys as `relay keys new` would make them."""
    for name in re.findall(r'_file = "([^"]+)"', content):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text("a secret\n")
    file = folder / "config.toml"
    file.write_text(content.replace('.pem" }', '.pem", generate = true }'))
    return file


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example(tmp_path: Path, example: Path) -> None:
    content = example.read_text()
    assert len([line for line in content.splitlines() if line.strip()]) <= 15
    assert content in (ROOT / "docs/configuration.md").read_text()
    jsonschema.validate(tomllib.loads(content), SCHEMA)
    assert not read(prepare(tmp_path, content), {}).warnings


def test_which_examples_there_are() -> None:
    assert [example.stem for example in EXAMPLES] == [
        "dev",
        "gateway",
        "google",
        "lmtp",
        "microsoft-365",
        "smart-host",
    ]


ROUND_TRIPS = [
    GOOD,
    text(),
    *(example.read_text() for example in EXAMPLES),
    GOOD + 'tls = "none"\nidle = "250ms"\nsource_address = "::1"\nehlo = "a.b"\n[hop.Zwei_b-2]\nkind = "inbox"\n',
    GOOD + '[route.last]\nhop = "mailbox"\nsender_domain = ["", "b\u00fccher.example"]\n[timeout]\ndns = "1.5s"\n',
    GOOD + '[rate.a]\nper = "ip"\nrecipients = 5\nlistener = ["gateway"]\n[rate.b]\nper = "sender"\nmessages = 1\n',
    GOOD + '[masquerade.a]\nmatch = ["*"]\naddress = "ann@example.org"\n[stress]\nabove = 1\n',
    GOOD + 'identify = "proxy-v2"\n[route.last]\nhop = "mailbox"\nsender = ["@a.b", "ann@a.b"]\n',
    GOOD + '[policy]\nskip = ["10.0.0.0/8"]\n[policy.forwarder.a]\ndkim = ["b.example"]\n[shadow]\n',
    GOOD + '[shadow.spf]\nfail = "refuse"\n[shadow.forwarder.a]\nnetwork = ["192.0.2.0/24"]\n[journal]\nkeep = "5 d"\n',
    GOOD.replace('["@example.org"]', """['"a \\\\ b"@example.org', "*"]"""),
]


@pytest.mark.parametrize("before", ROUND_TRIPS)
def test_what_is_printed_loads_to_the_same(tmp_path: Path, before: str) -> None:
    first, second = prepare(tmp_path, before), tmp_path / "second.toml"
    config = load(first, {})
    second.write_text(render(config))
    assert load(second, {}) == config
    assert list(load(second, {}).route) == list(config.route)  # their order counts


def test_a_printed_configuration_holds_no_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0o600)
    (tmp_path / "secret").write_text("canary-7391")
    (tmp_path / "config.toml").write_text(GOOD + 'tls = "required"\nusername = "u"\npassword_file = "secret"\n')
    config = load(tmp_path / "config.toml", {})
    printed = render(config)
    assert "7391" not in printed
    (tmp_path / "again.toml").write_text(printed)
    assert load(tmp_path / "again.toml", {}) == config  # by way of password_file


def test_further_certificates_are_printed(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    pair = 'certificate = "chain.pem"\nkey = "key.pem"\n'
    (tmp_path / "config.toml").write_text(
        GOOD.replace("port = 2526", f'port = 2526\ntls = "starttls"\n{pair}') + f"[listener.gateway.sni.a]\n{pair}"
    )
    config = load(tmp_path / "config.toml", {})
    printed = render(config)
    assert "\n[listener.gateway.sni.a]\n" in printed
    (tmp_path / "again.toml").write_text(printed)
    assert load(tmp_path / "again.toml", {}) == config


def test_an_example_of_a_table_is_shown_only_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(GOOD + '[rate.all]\nper = "ip"\nmessages = 1\n')
    printed = render(load(tmp_path / "config.toml", {}))
    assert "[rate.login]" not in printed
    assert "\n#[masquerade.internal]\n#match = " in printed
    assert "\n#[policy.forwarder.list]\n#name = " in printed
    assert re.findall(r"^#?\[shadow.*|^#reject = true", printed, re.MULTILINE) == ["#[shadow.dmarc]", "#reject = true"]
    assert printed.count("oauth2]\n") == 1


@pytest.mark.parametrize("content", [GOOD, text()])
def test_the_schema_takes_what_loads(content: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(tomllib.loads(content), SCHEMA)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("port = 2525", "prot = 2525"),
        ("port = 2525", "port = '2525'"),
        ("port = 2525", "port = 65536"),
        ('"submission"', '"mx"'),
        ("[route.all]", "[timeout]\ndns = '5 secs'\n[route.all]"),
        ("[route.all]", "[limit]\nmemory = '5 mb'\n[route.all]"),
        ('hostname = "relay.example.org"', ""),
    ],
)
def test_the_schema_refuses_what_does_not_load(old: str, new: str) -> None:
    assert old in GOOD
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(GOOD.replace(old, new, 1)), SCHEMA)
