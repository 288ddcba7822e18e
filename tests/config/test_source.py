"""Whatever the file holds, it loads or it is a ConfigError: R22 for the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relay.config.models import Config
from relay.config.shape import Leaf, kind_of, known_keys
from relay.config.shipped import toml
from relay.config.source import read
from relay.errors import ConfigError
from tests.support.configuration import GOOD, WORLD

LINES = GOOD.splitlines()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=5,
)
NAMES = {
    "listener": {"gateway": {"sni": {"x": {}}}},
    "hop": {"mailbox": {}},
    "rate": {"x": {}},
    "masquerade": {"x": {}},
}
KEYS = sorted(".".join(key) for key in known_keys(NAMES))

in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def loads_or_refuses(path: Path, overrides: dict[str, object] | None = None) -> None:
    try:
        assert isinstance(read(path, {}, overrides, WORLD).config, Config)
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert str(problem).isprintable()
            assert len(str(problem)) < 1000


@in_a_folder
@given(content=st.binary(max_size=200))
def test_any_octets(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "any.toml").write_bytes(content)
    loads_or_refuses(tmp_path / "any.toml")


@in_a_folder
@given(line=st.integers(0, len(LINES) - 1), junk=st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_line_spoilt(tmp_path: Path, line: int, junk: str) -> None:
    spoilt = [*LINES[:line], junk, *LINES[line + 1 :]]
    (tmp_path / "any.toml").write_text("\n".join(spoilt))
    loads_or_refuses(tmp_path / "any.toml")


@in_a_folder
@given(key=st.sampled_from(KEYS), value=VALUES)
@example(key="bounce.hop", value="\x1f")
@example(key="listener.gateway.recipients", value="\x1f")
def test_any_value_anywhere(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "any.toml").write_text(GOOD)
    loads_or_refuses(tmp_path / "any.toml", {key: value})


@in_a_folder
@given(
    name=st.text(st.characters(codec="ascii", categories=["Lu", "Nd", "Pc"]), max_size=30), text=st.text(max_size=30)
)
def test_any_variable(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "any.toml").write_text(GOOD)
    try:
        read(tmp_path / "any.toml", {f"RELAY_{name}": text}, {}, WORLD)
    except ConfigError as error:
        assert all(problem.source for problem in error.problems)


@given(st.text(st.characters(codec="utf-8")))
def test_printed_text_is_toml(text: str) -> None:
    import tomllib

    assert tomllib.loads(f"text = {toml(text)}")["text"] == text


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("hostname", Leaf.TEXT),
        ("data", Leaf.PATH),
        ("listener.x.port", Leaf.INTEGER),
        ("listener.x.require_tls", Leaf.BOOLEAN),
        ("listener.x.max_message_size", Leaf.TEXT),  # "25 MiB"
        ("listener.x.allow", Leaf.LIST),
        ("delay.greeting.x", Leaf.TEXT),
        ("hop.x.password", Leaf.SECRET),
        ("hop.x.password_file", Leaf.PATH),
        ("domain.x.key.y.file", Leaf.PATH),
        ("domain.x.key.y.nothing", None),
        ("listener.x.sni.y.key", Leaf.PATH),
        ("rate.x.window", Leaf.TEXT),
        ("masquerade.x.match", Leaf.LIST),
        ("hop.x.oauth2.client_secret", Leaf.SECRET),
        ("hop.x.oauth2.refresh_token_file", Leaf.PATH),
        ("hostname.x", None),
    ],
)
def test_the_shape_of_the_models(key: str, kind: Leaf | None) -> None:
    assert kind_of(tuple(key.split("."))) is kind


def test_every_value_of_the_models_is_reached() -> None:
    named = ("listener", "rate", "masquerade", "domain", "route", "hop")
    names = {name: {"x": {"key": {"y": {}}, "sni": {"y": {}}}} for name in named}
    missing = [key for key in known_keys(names) if not isinstance(kind_of(key), Leaf)]
    assert not missing
