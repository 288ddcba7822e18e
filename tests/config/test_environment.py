"""The environment and the command line: which key a variable is, and which value wins."""

from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.config.models import Config
from relay.config.source import load, read
from relay.errors import ConfigError
from tests.support.configuration import GOOD, WORLD


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(GOOD)
    return path


def value(config: Config, dotted: str) -> object:
    found: object = config
    for part in dotted.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found


@pytest.mark.parametrize(
    ("variable", "text", "key", "expected"),
    [
        ("RELAY_HOSTNAME", "mx.example.org", "hostname", "mx.example.org"),
        ("RELAY_DATA", "/data", "data", Path("/data")),
        ("RELAY_POSTMASTER", "ann@example.org", "postmaster", "ann@example.org"),
        ("RELAY_LISTENER__SUBMISSION__PORT", "587", "listener.submission.port", 587),
        ("RELAY_LISTENER__SUBMISSION__MAX_MESSAGE_SIZE", "1 MiB", "listener.submission.max_message_size", 2**20),
        ("RELAY_LISTENER__SUBMISSION__LONG_LINES", "fold", "listener.submission.long_lines", "fold"),
        (
            "RELAY_LISTENER__SUBMISSION__ALLOW_PLAINTEXT_LOGIN",
            "true",
            "listener.submission.allow_plaintext_login",
            True,
        ),
        ("RELAY_LISTENER__SUBMISSION__ALLOW", "10.1.0.0/16", "listener.submission.allow", (ip_network("10.1.0.0/16"),)),
        (
            "RELAY_LISTENER__SUBMISSION__SENDERS",
            "@a.org, b@c.org",
            "listener.submission.senders",
            ("@a.org", "b@c.org"),
        ),
        ("RELAY_LISTENER__SUBMISSION__SENDERS", '["@a.org"]', "listener.submission.senders", ("@a.org",)),
        ("RELAY_LIMIT__EXEMPT", "", "limit.exempt", ()),
        ("RELAY_ROUTE__ALL__SENDER_DOMAIN", '["", "a.org"]', "route.all.sender_domain", ("", "a.org")),
        ("RELAY_DELAY__GREETING__GATEWAY", "25s", "delay.greeting.gateway", 25.0),
        ("RELAY_TIMEOUT__FINAL_DOT", "20 min", "timeout.final_dot", 1200.0),
        ("RELAY_HOP__SPARE__HOST", "a.example,b.example", "hop.spare.host", ("a.example", "b.example")),  # a new table
        ("RELAY_LOG__FORMAT", "json", "log.format", "json"),
    ],
)
def test_a_variable_is_a_key(file: Path, variable: str, text: str, key: str, expected: object) -> None:
    assert value(read(file, {variable: text}, {}, WORLD).config, key) == expected


@pytest.mark.parametrize(
    ("table", "variable"),
    [
        ("Mail-Box", "RELAY_HOP__MAIL_BOX__PORT"),
        ("mail_box", "RELAY_HOP__MAIL_BOX__PORT"),
        ("B2", "RELAY_HOP__B2__PORT"),
    ],
)
def test_tables_are_found_in_any_case(file: Path, table: str, variable: str) -> None:
    file.write_text(GOOD.replace("mailbox", table))
    config = load(file, {variable: "587"})
    assert list(config.hop) == [table]
    assert config.hop[table].port == 587


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("RELAY_LISTENER__SUBMISSION__PRT", "did you mean RELAY_LISTENER__SUBMISSION__PORT?"),
        ("RELAY_LISTENER_SUBMISSION_PORT", "did you mean RELAY_LISTENER__SUBMISSION__PORT?"),
        ("RELAY_HOSTNAM", "did you mean RELAY_HOSTNAME?"),
        ("RELAY_HOP__SPARE__HOTS", "did you mean RELAY_HOP__SPARE__HOST?"),
        ("RELAY_HOST", "unknown variable"),
        ("RELAY_LISTENER__SUBMISSION", "unknown variable"),  # a table
        ("RELAY_HOSTNAME__X", "unknown variable"),
        ("RELAY_", "unknown variable"),
        ("RELAY___", "unknown variable"),
        ("RELAY_XYZZY", "no key has a name like it"),
        ("RELAY_XYZZY_FILE", "no key has a name like it"),
    ],
)
def test_an_unknown_variable_is_an_error(file: Path, variable: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(file, {variable: "1"}, {}, WORLD)
    (problem,) = caught.value.problems
    assert problem.source == f"environment {variable}"
    assert words in problem.text


@pytest.mark.parametrize(
    "variable",
    [
        "RELAY_REQUIRE_PEERS",
        "HOME",
        "relay_hostname",
        # https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
        "RELAY_SERVICE_HOST",
        "RELAY_SERVICE_PORT",
        "RELAY_SERVICE_PORT_SMTP",
        "RELAY_PORT",
        "RELAY_PORT_25_TCP",
        "RELAY_PORT_25_TCP_PROTO",
        "RELAY_PORT_25_TCP_ADDR",
    ],
)
def test_variables_that_are_not_for_us(file: Path, variable: str) -> None:
    assert read(file, {variable: "tcp://10.0.0.11:25"}, {}, WORLD).config == load(file, {})


@pytest.mark.parametrize(
    ("environ", "key", "words"),
    [
        ({"RELAY_LISTENER__GATEWAY__PORT": "x"}, "listener.gateway.port", '"x" will not do; write a whole number'),
        ({"RELAY_LISTENER__GATEWAY__PORT": "٣"}, "listener.gateway.port", "write a whole number"),
        ({"RELAY_LISTENER__GATEWAY__REQUIRE_TLS": "yes"}, "listener.gateway.require_tls", "write true or false"),
        ({"RELAY_LIMIT__EXEMPT": "[1"}, "limit.exempt", "write a list"),
        ({"RELAY_LIMIT__EXEMPT": "10.0.0.1/8"}, "limit.exempt", "without host bits"),
        ({"RELAY_LOG__LEVEL": "a\nb"}, "log.level", "not printable"),
        ({"RELAY_LOG__LEVEL": "\udcff"}, "log.level", "not printable"),
        ({"RELAY_HOP__SPARE__PORT": "25"}, "hop.spare", "needs `host`"),
        ({"RELAY_LISTENER__SPARE__PORT": "25"}, "listener.spare.role", "is missing"),
        ({"RELAY_LOG__LEVEL_FILE": "/nonexistent"}, "log.level", "no such file"),
        ({"RELAY_LOG__LEVEL_FILE": "/"}, "log.level", "is a directory"),
        ({"RELAY_LOG__LEVEL_FILE": "/x", "RELAY_LOG__LEVEL": "info"}, "log.level", "not both"),
    ],
)
def test_a_variable_that_cannot_be_used(file: Path, environ: dict[str, str], key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(file, environ, {}, WORLD)
    named = [problem for problem in caught.value.problems if problem.source.removeprefix("environment ") in environ]
    assert any(problem.key == key and words in problem.text for problem in named), caught.value.problems


@pytest.mark.parametrize(("content", "level"), [("debug", "debug"), ("debug\n", "debug"), ("debug\r\n", "debug")])
def test_a_value_from_a_file(file: Path, tmp_path: Path, content: str, level: str) -> None:
    named = tmp_path / "level"
    named.write_text(content, newline="")
    assert load(file, {"RELAY_LOG__LEVEL_FILE": str(named)}).log.level == level


def test_a_value_from_a_file_is_never_shown(file: Path, tmp_path: Path) -> None:
    named = tmp_path / "canary"
    named.write_text("canary-7391")
    with pytest.raises(ConfigError) as caught:
        load(file, {"RELAY_LOG__LEVEL_FILE": str(named)})
    assert "log.level" in str(caught.value)
    assert "7391" not in str(caught.value)


def test_a_file_that_is_no_text(file: Path, tmp_path: Path) -> None:
    named = tmp_path / "binary"
    for content, words in ((b"\xff", "not UTF-8"), (b"x" * 70_000, "longer than")):
        named.write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            load(file, {"RELAY_LOG__LEVEL_FILE": str(named)})


def test_a_greeting_delay_from_a_file(file: Path, tmp_path: Path) -> None:
    named = tmp_path / "delay"
    named.write_text("25s\n")
    config = load(file, {"RELAY_DELAY__GREETING__GATEWAY_FILE": str(named)})
    assert config.delay.greeting == {"gateway": 25.0}


# precedence


def test_command_line_over_environment_over_file_over_default(file: Path) -> None:
    assert load(file, {}).log.level == "info"
    file.write_text(GOOD + '[log]\nlevel = "error"\n')
    assert load(file, {}).log.level == "error"
    assert load(file, {"RELAY_LOG__LEVEL": "warning"}).log.level == "warning"
    assert load(file, {"RELAY_LOG__LEVEL": "warning"}, {"log.level": "debug"}).log.level == "debug"
    with pytest.raises(ConfigError, match=r"command line: log\.level"):
        load(file, {}, {"log.level": "loud"})
    with pytest.raises(ConfigError, match=r"command line: log\.lefel: unknown"):
        load(file, {}, {"log.lefel": "info"})


def test_password_and_password_file_are_one_setting(file: Path, tmp_path: Path) -> None:
    def password(environ: dict[str, str]) -> str:
        secret = load(file, environ).hop["mailbox"].password
        assert secret is not None
        return secret.get_secret_value()

    for name in ("one", "two"):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(f"{name}\n")
    login = GOOD + 'tls = "required"\nusername = "relay"\n'
    variable = "RELAY_HOP__MAILBOX__PASSWORD"
    file.write_text(login + 'password_file = "one"\n')
    assert password({}) == "one"
    assert password({variable: "three"}) == "three"
    assert password({f"{variable}_FILE": str(tmp_path / "two")}) == "two"
    file.write_text(login + 'password = "four"\n')
    file.chmod(0o600)
    assert password({}) == "four"
    assert password({f"{variable}_FILE": str(tmp_path / "two")}) == "two"
    with pytest.raises(ConfigError, match="keep one of them"):
        password({variable: "three", f"{variable}_FILE": str(tmp_path / "two")})


def test_a_login_by_token_comes_from_the_environment_alone(file: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(f"{name}\n")
    file.write_text(GOOD + 'tls = "required"\nusername = "relay"\n')
    prefix = "RELAY_HOP__MAILBOX__OAUTH2__"
    environ = {
        f"{prefix}TOKEN_URL": "https://login.example.net/token",
        f"{prefix}CLIENT_ID": "relay",
        f"{prefix}CLIENT_SECRET": "zero",
    }
    secret_file = {f"{prefix}CLIENT_SECRET_FILE": str(tmp_path / "two")}

    def secrets() -> list[str | None]:
        oauth2 = load(file, environ).hop["mailbox"].oauth2
        assert oauth2 is not None
        both = (oauth2.client_secret, oauth2.refresh_token)
        return [one.get_secret_value() if one is not None else None for one in both]

    assert secrets() == ["zero", None]
    file.write_text(file.read_text() + 'oauth2 = { client_secret_file = "one", refresh_token_file = "one" }\n')
    assert secrets() == ["zero", "one"]  # what outranks the one form outranks the other
    del environ[f"{prefix}CLIENT_SECRET"]
    assert secrets() == ["one", "one"]
    environ |= secret_file
    assert secrets() == ["two", "one"]
    environ[f"{prefix}CLIENT_SECRET"] = "zero"
    with pytest.raises(ConfigError, match="keep one of them"):
        secrets()


def test_a_file_with_a_password_is_a_secret(file: Path) -> None:
    file.write_text(GOOD + 'tls = "required"\nusername = "relay"\npassword = "canary-7391"\n')
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        load(file, {})
    assert "7391" not in str(caught.value)
    file.chmod(0o600)
    assert "7391" not in repr(load(file, {}))


@pytest.mark.parametrize("line", ['pasword = "canary-7391"', "password = 7391", "username = 7391\npassword = 'x-7391'"])
def test_no_password_is_quoted(file: Path, line: str) -> None:
    file.write_text(f"{GOOD}tls = 'required'\n{line}\n".replace("username = 7391", "usrname = 'u'"))
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert "7391" not in str(caught.value)


# which file


def test_which_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert read(None, {}).source == "embedded defaults"
    assert read(None, {"RELAY_CONFIG": str(file)}).source == str(file)
    monkeypatch.chdir(tmp_path)
    assert read(None, {}).source == "config.toml"
    assert read(Path("config.toml"), {"RELAY_CONFIG": "nowhere"}).source == "config.toml"


# paths


@pytest.mark.parametrize(
    ("environ", "data"),
    [({}, "{folder}/data"), ({"RELAY_DATA": "/data"}, "/data"), ({"RELAY_DATA": "var"}, "{folder}/var")],
)
def test_paths_start_at_the_file_and_keys_at_data(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], data: str
) -> None:
    file.write_text(
        GOOD
        + '[domain.d]\nname = "example.org"\n'
        + 'key.a = { selector = "a", file = "keys/a.pem", generate = true }\n'
        + 'key.b = { selector = "b", file = "/keys/b.pem", generate = true }\n'
        + '[login]\nfile = "logins"\n'
    )
    (tmp_path / "logins").touch(mode=0o600)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load(Path("../config.toml"), environ)
    folder = Path(os.path.normpath(str(config.data)))
    assert str(folder) == data.format(folder=tmp_path)
    assert config.domain["d"].key["a"].file == config.data / "keys/a.pem"
    assert config.domain["d"].key["b"].file == Path("/keys/b.pem")
    assert config.login.file is not None
    assert config.login.file.samefile(tmp_path / "logins")
