"""Values from outside the file: `RELAY_…` variables and the command line's.

`RELAY_HOP__MAILBOX__PORT=25` is `[hop.mailbox] port = 25`. A variable that ends in `_FILE` names a
file that holds the value, except where a key of that name exists (`password_file`).

TRUSTS     the operator, whose mistakes are named.
FAILS      Problems, one for each variable that cannot be used; no value is ever in their text.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.config.shape import Key, Leaf, Named, kind_of, known_keys
from relay.errors import Problem

PREFIX = "RELAY_"
# Ours, but no keys: the file's path, and the tests' switch.
NO_KEYS = {"RELAY_CONFIG", "RELAY_REQUIRE_PEERS"}
# Kubernetes and Docker links put these into every container beside a service that is called "relay".
_SERVICE_LINK = re.compile(
    r"RELAY_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)\Z"
)
MAX_VALUE = 64 * 1024  # octets in a file named by …_FILE


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that outranks the file's. source: what an operator would look for."""

    key: Key
    value: object
    source: str
    secret: bool = False  # came from a file, so it is not shown


def from_environment(environ: Mapping[str, str], tree: Mapping[str, Any]) -> Iterator[Setting | Problem]:
    """The settings in `environ`; `tree` is the file's, whose table names they may be about."""
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in NO_KEYS and not _SERVICE_LINK.match(variable):
            yield _from_variable(variable, environ, tree)


def from_command_line(overrides: Mapping[str, object]) -> Iterator[Setting | Problem]:
    """The settings in `overrides`, by dotted key; text is read as in the environment."""
    for dotted, value in overrides.items():
        key, source = tuple(dotted.split(".")), "command line"
        kind = kind_of(key)
        if not isinstance(kind, Leaf):
            yield Problem(source, dotted, "unknown key")
        else:
            yield Setting(key, read_value(kind, value) if isinstance(value, str) else value, source)


def read_value(kind: Leaf, text: str) -> object:
    """`text` as the file would have it; what cannot be read stays text, for the models to refuse."""
    if kind is Leaf.INTEGER and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if kind is Leaf.BOOLEAN:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind is Leaf.LIST:
        if not text.lstrip().startswith("["):
            return [part.strip() for part in text.split(",") if part.strip()]
        try:
            return tomllib.loads(f"list = {text}\n")["list"]
        except (ValueError, RecursionError):
            return text
    return text


def _from_variable(variable: str, environ: Mapping[str, str], tree: Mapping[str, Any]) -> Setting | Problem:
    source, text = f"environment {variable}", environ[variable]
    parts = variable.removeprefix(PREFIX).split("__")
    key = _key(parts, tree)
    kind = kind_of(key)
    if variable.endswith("_FILE") and _is_free(key):
        plain = variable.removesuffix("_FILE")
        key = _key(plain.removeprefix(PREFIX).split("__"), tree)
        kind = kind_of(key)
        if isinstance(kind, Leaf):
            if plain in environ:
                return Problem(source, ".".join(key), f"set this or {plain}, not both")
            try:
                text = _read(text)
            except (OSError, ValueError) as error:
                return Problem(source, ".".join(key), f"the file it names cannot be read: {reason(error)}")
            return Setting(key, read_value(kind, text), source, secret=True)
    if not isinstance(kind, Leaf):
        return Problem(source, "", _unknown(variable, parts, tree))
    if not text.isprintable() and kind is not Leaf.SECRET:
        return Problem(source, ".".join(key), "holds something that is not printable text in UTF-8")
    return Setting(key, read_value(kind, text), source)


def _key(parts: list[str], tree: Mapping[str, Any]) -> Key:
    """The key that `parts` of a variable spell: in lower case, or as the file spells a table's name."""
    key: Key = ()
    below: Any = tree
    for part in parts:
        name = part.lower()
        if isinstance(kind_of(key), Named) and isinstance(below, Mapping):
            name = next((own for own in below if own.lower().replace("-", "_") == name), name)
        key = (*key, name)
        below = below.get(name) if isinstance(below, Mapping) else None
    return key


def _is_free(key: Key) -> bool:
    """No field of the models has this key: it is unknown, or a name of the operator's choice."""
    return kind_of(key) is None or isinstance(kind_of(key[:-1]), Named)


def _read(path: str) -> str:
    with Path(path).open("rb") as file:
        content = file.read(MAX_VALUE + 1)
    if len(content) > MAX_VALUE:
        raise ValueError(f"it is longer than {MAX_VALUE} octets")
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None


def reason(error: OSError | ValueError) -> str:
    """`no such file or directory`, without the path, which the sentence has named already."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]


def _unknown(variable: str, parts: list[str], tree: Mapping[str, Any]) -> str:
    variables = {PREFIX + "__".join(key).upper().replace("-", "_") for key in known_keys(_with(tree, parts))}
    near = difflib.get_close_matches(variable, sorted(variables), 1, 0.7)
    return f"unknown variable; did you mean {near[0]}?" if near else "unknown variable; no key has a name like it"


def _with(tree: Mapping[str, Any], parts: list[str]) -> dict[str, Any]:
    """`tree`, and the tables that `parts` would make, so that their keys are known too."""
    names: dict[str, Any] = {}
    for name in {*tree, parts[0].lower()}:
        below = tree.get(name)
        below = below if isinstance(below, Mapping) else {}
        inside = _with(below, parts[1:]) if parts[1:] and name == parts[0].lower() else dict(below)
        names[name] = inside
    return names
