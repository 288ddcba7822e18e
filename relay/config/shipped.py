"""The shipped configuration, and any configuration printed as commented TOML.

`config.toml` in the repository is `text()`, and `text()` is what the relay runs on without a file.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic.fields import FieldInfo

from relay.config.models import ROLE_KEYS, Config, Listener
from relay.config.shape import Key, Kind, Leaf, Named, inside
from relay.config.table import Table

SHIPPED: Mapping[str, Any] = {
    "hostname": "localhost",
    "data": "data",
    "listener": {
        "submission": {
            "role": "submission",
            "host": "127.0.0.1",
            "port": 2525,
            "allow": ["127.0.0.0/8", "::1/128"],
            "senders": ["@example.org"],
        },
        "gateway": {"role": "gateway", "host": "127.0.0.1", "port": 2526, "domains": ["example.org"]},
        "capture": {"role": "capture", "host": "127.0.0.1", "port": 1025},
    },
    "delay": {"greeting": {"gateway": "2s"}},
    "domain": {
        "example": {
            "name": "example.org",
            "key": {
                "rsa": {"selector": "rsa1", "file": "keys/example.org.rsa1.pem", "generate": True},
                "ed25519": {
                    "selector": "ed1",
                    "file": "keys/example.org.ed1.pem",
                    "algorithm": "ed25519-sha256",
                    "generate": True,
                },
            },
        }
    },
    "route": {"all": {"hop": "next"}},
    "hop": {"next": {"kind": "inbox"}},
    "web": {"host": "127.0.0.1", "port": 8025},
}

_HEAD = """\
One working relay for one machine: `relay serve` runs on exactly this, with or without the file.
It listens on loopback only, signs for example.org, and keeps all mail in its own inbox.
To send mail on through a real server change three lines: (1), (2) and (3).

  #key = value    is a default, or an example where there is no default
  #[table]        is an example of a table that nothing needs
  durations       "500ms", "25s", "5 min", "1 h", "5 d"
  sizes           "500 B", "64 KiB", "25 MiB", "1 GiB"
  relative paths  start at the folder of this file, those of DKIM keys at `data`
  environment     outranks this file: RELAY_HOP__NEXT__PORT=587 is [hop.next] port = 587, and
                  a variable ending in _FILE names a file that holds the value

`relay config check` names what is wrong, with line and key. More: docs/configuration.md
"""
_NOTES = {
    ("hostname",): '(1) for a real next hop: the name that others know this machine by, "relay.example.org"',
    ("hop", "next", "kind"): (
        "(2) for a real next hop take this line out, and (3) the # from the line below it.\n"
        "Servers that want a login: port, tls, username and password_file as well."
    ),
}
_WIDTH = 118
_COLUMN = 36  # where comments begin, unless the setting is longer


@cache
def text() -> str:
    """`config.toml` as shipped."""
    return render(Config.model_validate(SHIPPED), _HEAD, _NOTES)


def render(config: Config, head: str = "", notes: Mapping[Key, str] | None = None) -> str:
    """`config` as TOML that loads to the same. What is not set is shown as a comment, once for each kind of table.

    notes: prose that goes before a key. Secrets are not printed.
    """
    printer = _Printer(notes or {})
    lines = [*_prose(head), "", *printer.settings((), config)]
    for name in Config.model_fields:
        for index, (key, table, is_live) in enumerate(printer.tables((), config, name)):
            if index == 0:
                described = (Config.model_fields[name].description or "").partition("\n")[0]
                lines += ["", "", f"# --- {described} ".ljust(78, "-"), *_prose(table.__doc__ or "")]
            lines += [""] * (index > 0) + [*printer.table(key, table, is_live)]
    return "\n".join(lines).lstrip("\n") + "\n"


class _Printer:
    """Prints tables; knows which keys have been described, and which tables shown, already."""

    def __init__(self, notes: Mapping[Key, str]) -> None:
        self._notes = notes
        self._described: set[tuple[type[Table], str]] = set()  # by the class that declares the key
        self._shown: set[type[Table]] = set()

    def tables(self, above: Key, table: Table, name: str) -> Iterator[tuple[Key, Table, bool]]:
        """The tables at `name`: key, table, and whether it is set; an example where none is and none was shown."""
        kind, value = inside(type(table), name), getattr(table, name)
        if isinstance(value, Table):
            yield (*above, name), value, True
        elif isinstance(kind, Named) and isinstance(kind.inside, type) and value:
            for own, one in value.items():
                yield (*above, name, own), one, True
        else:
            yield from self._example((*above, name), kind, type(table).model_fields[name])

    def table(self, key: Key, table: Table, is_live: bool = True) -> Iterator[str]:
        """A table and those inside it. One that is not live is all comment."""
        self._shown.add(type(table))
        settings = [*self.settings(key, table, is_live)]
        if settings or is_live:
            yield f"{'' if is_live else '#'}[{'.'.join(key)}]"
            yield from settings
        for name in type(table).model_fields:
            is_named = isinstance(inside(type(table), name), Named)
            for below, one, set_there in self.tables(key, table, name):
                lines = [*self.table(below, one, set_there and is_live)]
                if len(lines) > 1 or is_named:  # a header alone says nothing, but that there is such a name
                    yield ""
                    yield from _prose("" if set_there else one.__doc__ or "")
                    yield from lines

    def settings(self, key: Key, table: Table, is_table_live: bool = True) -> Iterator[str]:
        """The lines of a table's own values."""
        model = type(table)
        plain = table.model_dump(mode="json")
        for name, field in model.model_fields.items():
            if not _is_value(inside(model, name)):
                continue
            setting, is_live = self._setting(table, name, field, plain[name])
            declared = next(base for base in model.__mro__ if name in base.__annotations__)
            is_new = (declared, name) not in self._described
            if not is_live and (not is_new or not _applies(table, name)):
                continue
            self._described.add((declared, name))
            if is_new and isinstance(field.json_schema_extra, dict):
                yield f"# {field.json_schema_extra['group']}:"
            yield from _prose(self._notes.get((*key, name), ""))
            setting = setting if is_live and is_table_live else f"#{setting}"
            yield from _commented(setting, field.description if is_new else "")

    def _setting(self, table: Table, name: str, field: FieldInfo, plain: Any) -> tuple[str, bool]:
        """`port = 25`, and whether it is in force as it stands there."""
        is_live = name in table.model_fields_set or field.is_required()
        is_secret = inside(type(table), name) is Leaf.SECRET
        if getattr(table, name) is None or is_secret or (not is_live and field.examples):
            is_live, plain = False, (field.examples or [""])[0]
        return f"{name} = {toml(plain)}", is_live

    def _example(self, key: Key, kind: Kind | None, field: FieldInfo) -> Iterator[tuple[Key, Table, bool]]:
        example = (field.examples or [None])[0]
        if isinstance(kind, Named) and isinstance(kind.inside, type) and example:
            ((own, example),) = example.items()
            key, kind = (*key, own), kind.inside
        if isinstance(kind, type) and example and kind not in self._shown:
            # As from a file: text becomes a path or an enum.
            yield key, kind.model_validate_json(json.dumps(example)), False


def toml(value: Any) -> str:
    """A JSON value as TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    # JSON's strings are TOML's basic strings, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _is_value(kind: Kind | None) -> bool:
    return isinstance(kind, Leaf) or (isinstance(kind, Named) and isinstance(kind.inside, Leaf))


def _applies(table: Table, name: str) -> bool:
    return not isinstance(table, Listener) or table.role in ROLE_KEYS.get(name, (table.role,))


def _prose(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"# {line}".rstrip()


def _commented(setting: str, description: str | None) -> Iterator[str]:
    """The setting with its description beside it, wrapped in its column."""
    if not description:
        yield setting
        return
    column = max(_COLUMN, len(setting) + 2)
    first, *rest = textwrap.wrap(" ".join(description.split()), max(_WIDTH - column, 50))
    yield f"{setting:<{column}}# {first}"
    for line in rest:
        yield f"{'':<{column}}# {line}"
