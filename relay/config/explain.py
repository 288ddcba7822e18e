"""What pydantic found, as one sentence for the operator."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from relay.config.models import Config
from relay.config.shape import Key, Leaf, Named, kind_of
from relay.config.table import Table
from relay.escape import escape

MAX_SHOWN = 60  # characters of a faulty value

_WANTED = {
    "string_type": "write text in quotes",
    "int_type": "write a whole number, without quotes",
    "int_parsing": "write a whole number, without quotes",
    "int_parsing_size": "write a smaller number",
    "bool_type": "write true or false, without quotes",
    "tuple_type": 'write a list, such as ["one", "two"]',
    "path_type": "write a path in quotes",
    "string_too_long": "write a shorter name",
    "string_pattern_mismatch": "write a name of letters, digits, single hyphens and underscores",
}


def explain(error: Mapping[str, Any], hidden: bool) -> tuple[Key, str]:
    """The key that `error` (of `ValidationError.errors()`) is about, and what is wrong with it.

    hidden: the value came from where secrets come from, so it is not shown.
    """
    what, context = error["type"], error.get("ctx", {})
    key = tuple(part for part in error["loc"] if isinstance(part, str) and part != "[key]")
    kind = kind_of(key)
    if what == "extra_forbidden":
        return key, _unknown(key)
    if what == "missing":
        return key, f"is missing; {_description(key)}"
    if what == "too_short":
        return key, f"is empty; {_description(key)}"
    if what in ("model_type", "dict_type"):
        dotted = ".".join((*key, "NAME") if isinstance(kind, Named) else key)
        return key, f"is a value, where a table [{dotted}] is wanted"
    if what == "value_error":
        wanted = str(context["error"])
    elif what in ("enum", "literal_error"):
        wanted = f"write one of {context['expected']}".replace("'", '"')
    elif "ge" in context or "le" in context or "gt" in context:
        words = {"ge": "at least", "le": "at most", "gt": "more than"}
        wanted = "write " + " and ".join(f"{words[bound]} {limit}" for bound, limit in context.items())
    else:
        wanted = _WANTED.get(what, error["msg"])
    if hidden or kind is Leaf.SECRET or kind is None:
        return key, wanted
    return key, f"{shown(error['input'])} will not do; {wanted}"


def shown(value: object) -> str:
    """A value as the file would spell it, cut to a line."""
    text = escape(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def nearest(name: str, names: list[str]) -> str:
    """The one of `names` that was perhaps meant, or ""."""
    found = difflib.get_close_matches(name.lower(), names, 1, 0.6)
    return found[0] if found else ""


def _unknown(key: Key) -> str:
    table = kind_of(key[:-1])
    fields = list(table.model_fields) if isinstance(table, type) else []
    if near := nearest(key[-1], fields):
        return f"unknown key; did you mean `{near}`?"
    for name, field in Config.model_fields.items():
        inside = field.annotation
        if isinstance(inside, type) and issubclass(inside, Table) and key[-1] in inside.model_fields:
            return f"unknown key here; it stands in [{name}]"
    return f"unknown key; this table has {', '.join(fields)}"


def _description(key: Key) -> str:
    """What a missing key is for."""
    table = kind_of(key[:-1])
    if isinstance(table, type) and key[-1] in table.model_fields:
        return (table.model_fields[key[-1]].description or "").replace("\n", " ")
    return "give it"
