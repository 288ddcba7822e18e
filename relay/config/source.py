"""From file, environment and command line to a Config, with the place of everything that is wrong.

Precedence: command line > environment > file > default. Relative paths start at the folder of the
file, those of DKIM keys at `data`; nothing in a value is expanded.

STANDARDS  TOML 1.0, by tomllib.
TRUSTS     the operator's intent, not his spelling: an unknown key or variable is an error.
FAILS      ConfigError with all problems, each with file:line and key. No secret is in their text.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from relay.config import shipped
from relay.config.checks import check
from relay.config.environment import Setting, from_command_line, from_environment, reason
from relay.config.explain import explain
from relay.config.files import File, exposed, secret_in
from relay.config.finding import World, this_world
from relay.config.hop import Hop, OAuth2
from relay.config.models import Config
from relay.config.place import Places
from relay.config.shape import Key, Leaf, kind_of, leaves
from relay.errors import ConfigError, Problem

DEFAULT = Path("config.toml")
MAX_FILE = 1024**2  # octets
_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)\Z")


@dataclass(frozen=True, slots=True)
class Loaded:
    """source: the file as it was named, or "embedded defaults". warnings: what to tell the operator."""

    config: Config
    source: str
    warnings: tuple[Problem, ...]


def load(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object] | None = None) -> Config:
    """The configuration; see `read`. Raises ConfigError."""
    return read(path, environ, overrides).config


def read(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
    world: World | None = None,
) -> Loaded:
    """The configuration and its warnings.

    path:      None is `RELAY_CONFIG`, else `./config.toml` if there is one, else the embedded defaults.
    overrides: values by dotted key, from the command line.
    world:     what the checks may look at; None is this machine.
    Raises ConfigError with all problems.
    """
    world = world or this_world()
    if path is None and environ.get("RELAY_CONFIG"):
        path = Path(environ["RELAY_CONFIG"])
    if path is None and DEFAULT.exists():
        path = DEFAULT
    source = "embedded defaults" if path is None else str(path)
    text, file = (shipped.text(), None) if path is None else _read_text(path)
    layers = _Layers(source, _parse(source, text), Places(text))
    problems = [*layers.add(environ, overrides or {})]
    layers.make_absolute((path.parent if path else Path()).absolute())
    config, invalid = layers.validate()
    problems += invalid
    warnings: list[Problem] = []
    if config is not None:
        for finding in check(config, world):
            problem = Problem(layers.source(finding.key), ".".join(finding.key), finding.text)
            (warnings if finding.is_warning else problems).append(problem)
    if file is not None and path is not None and layers.has_secret:
        fault = exposed(file, path, world.user)
        problems += [Problem(source, "", fault)] if fault else []
    if problems or config is None:
        raise ConfigError(*problems)
    return Loaded(_with_secrets(config, world), source, tuple(warnings))


def _read_text(path: Path) -> tuple[str, File]:
    """The file's text, and the file. Raises ConfigError."""

    def refuse(text: str) -> ConfigError:
        return ConfigError(Problem(str(path), "", text))

    try:
        with path.open("rb") as opened:
            status, content = os.fstat(opened.fileno()), opened.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read: {reason(error)}") from None
    if len(content) > MAX_FILE:
        raise refuse(f"is longer than {MAX_FILE} octets")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise refuse("is in UTF-16; save it as UTF-8")
    if content.startswith(b"\xef\xbb\xbf"):
        raise refuse("begins with a byte order mark; save it as UTF-8 without one")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(Problem(f"{path}:{line}", "", "is not UTF-8")) from None
    if not text.strip():
        raise refuse("is empty; `relay config print --shipped` prints a whole one")
    return text, File(content, stat.S_IMODE(status.st_mode), status.st_uid)


def _parse(source: str, text: str) -> dict[str, Any]:
    """The text as tables. Raises ConfigError with line and column."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(Problem(source, "", "is nested too deeply")) from None
    except ValueError as error:  # TOMLDecodeError, and int()'s own for a number of 5000 digits
        found = _POSITION.search(str(error))
        if not found:
            raise ConfigError(Problem(source, "", f"is not TOML: {str(error).partition(';')[0]}")) from None
        line = found[1] or str(text.rstrip().count("\n") + 1)
        place = f"{source}:{line}:{found[2]}" if found[2] else f"{source}:{line}"
        words = str(error)[: found.start()]
        raise ConfigError(Problem(place, "", f"is not TOML: {words[:1].lower()}{words[1:]}")) from None


class _Layers:
    """The tables of the file, overlaid by what outranks them; it remembers where each value came from."""

    def __init__(self, source: str, tree: dict[str, Any], places: Places) -> None:
        self._source, self._tree, self._places = source, tree, places
        self._outside: dict[Key, Setting] = {}
        self.has_secret = any(kind is Leaf.SECRET for _, kind, _ in leaves(tree))

    def add(self, environ: Mapping[str, str], overrides: Mapping[str, object]) -> list[Problem]:
        problems = []
        for layer in (from_environment(environ, self._tree), from_command_line(overrides)):
            settings = [*layer]
            new = {setting.key for setting in settings if isinstance(setting, Setting)}
            for setting in settings:
                if isinstance(setting, Problem):
                    problems.append(setting)
                else:
                    self._put(setting, new)
        return problems

    def _put(self, setting: Setting, new: set[Key]) -> None:
        *above, name = setting.key
        table: Any = self._tree
        for part in above:
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            return  # the file has a value where a table belongs, and hears of that
        table[name] = setting.value
        self._outside[setting.key] = setting
        # A password that outranks the file's outranks its password_file too, and the other way round.
        for twin in (f"{name}_file", name.removesuffix("_file")):
            is_pair = twin != name and Leaf.SECRET in (kind_of(setting.key), kind_of((*above, twin)))
            if is_pair and (*above, twin) not in new:
                table.pop(twin, None)

    def make_absolute(self, folder: Path) -> None:
        self._tree.setdefault("data", str(Config.model_fields["data"].default))
        data = self._tree["data"]
        if not isinstance(data, str):
            return
        for key, kind, value in [*leaves(self._tree)]:
            if kind is Leaf.PATH and isinstance(value, str):
                table: Any = self._tree
                for part in key[:-1]:
                    table = table[part]
                table[key[-1]] = str(folder / data / value if key[0] == "domain" else folder / value)

    def validate(self) -> tuple[Config | None, list[Problem]]:
        try:
            # Strict as JSON: text becomes an enum or a path, but "25" no number and 1 no true.
            # TOML's dates, which nothing here wants, become what nothing takes.
            text = json.dumps(self._tree, default=lambda date: {"a date": str(date)})
            return Config.model_validate_json(text, strict=True), []
        except ValidationError as error:
            problems = []
            for one in error.errors(include_url=False):
                if one["type"] == "json_invalid":
                    return None, [Problem(self._source, "", "is nested too deeply, or holds what is no text")]
                key, text = explain(one, hidden=self._is_hidden(one["loc"]))
                problems.append(Problem(self.source(key), ".".join(key), text))
            return None, problems
        except RecursionError:
            return None, [Problem(self._source, "", "is nested too deeply")]

    def source(self, key: Key) -> str:
        """Where an operator finds `key`: a variable, the command line, or file:line."""
        while key:  # from the key itself to the tables around it
            if setting := self._outside.get(key):
                return setting.source
            if line := self._places.line(key):
                return f"{self._source}:{line}"
            for inside, setting in self._outside.items():
                if inside[: len(key)] == key:  # a table that is in no file
                    return setting.source
            key = key[:-1]
        return self._source

    def _is_hidden(self, location: tuple[int | str, ...]) -> bool:
        setting = self._outside.get(tuple(str(part) for part in location))
        return setting is not None and setting.secret


def _with_secrets(config: Config, world: World) -> Config:
    """`config` with the content of each password_file and the like as the password, so that no one else reads files."""
    return config.model_copy(update={"hop": {name: _filled(hop, world) for name, hop in config.hop.items()}})


def _filled(table: Hop | OAuth2, world: World) -> Hop | OAuth2:
    found: dict[str, object] = {}
    for name in type(table).model_fields:
        value = getattr(table, name)
        if isinstance(value, OAuth2):
            found[name] = _filled(value, world)
        path = getattr(table, f"{name}_file", None)
        if isinstance(path, Path):
            found[name] = SecretStr(secret_in(world.read(path)))
    return table.model_copy(update=found)
