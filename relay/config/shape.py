"""The shape of the models: which keys there are, and what sort of value each one holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BeforeValidator, SecretStr

from relay.config.models import Config
from relay.config.table import Table

Key = tuple[str, ...]  # ("listener", "submission", "port")


class Leaf(Enum):
    TEXT = "text"
    INTEGER = "a whole number"
    BOOLEAN = "true or false"
    LIST = "a list"
    PATH = "a path"
    SECRET = "a secret"


@dataclass(frozen=True)
class Named:
    """Tables (or values) that go by names of the operator's choice: `[hop.NAME]`."""

    inside: Kind


Kind = type[Table] | Named | Leaf


def kind_of(key: Key) -> Kind | None:
    """What stands at `key`; None when the models know no such key."""
    kind: Kind | None = Config
    for part in key:
        kind = inside(kind, part)
    return kind


def leaves(tree: Mapping[str, Any]) -> Iterator[tuple[Key, Leaf, Any]]:
    """The values in `tree` that stand where the models want one: key, kind, value."""
    yield from _leaves(Config, tree, ())


def known_keys(names: Mapping[str, Any]) -> Iterator[Key]:
    """Every key of a value that may be set, with the table names that `names` (nested) has."""
    yield from _known(Config, names, ())


def inside(kind: Kind | None, part: str) -> Kind | None:
    """What stands at `part` of a table, or at any name of named ones."""
    if isinstance(kind, Named):
        return kind.inside
    if isinstance(kind, type) and part in kind.model_fields:
        field = kind.model_fields[part]
        return _kind(field.annotation, field.metadata)
    return None


def _kind(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> Kind:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0], arguments[1:])
    if origin in (Union, UnionType) and NoneType in arguments:
        return _kind(next(argument for argument in arguments if argument is not NoneType), metadata)
    if origin is dict:
        return Named(_kind(arguments[1]))
    if origin is tuple:
        return Leaf.LIST
    # A duration or a size is a number for us, but text with a unit for the operator.
    if any(isinstance(one, BeforeValidator) for one in metadata):
        return Leaf.TEXT
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    leaf = {int: Leaf.INTEGER, bool: Leaf.BOOLEAN, Path: Leaf.PATH, SecretStr: Leaf.SECRET}
    return leaf.get(annotation, Leaf.TEXT)


def _leaves(kind: Kind | None, value: Any, key: Key) -> Iterator[tuple[Key, Leaf, Any]]:
    if isinstance(kind, Leaf):
        yield key, kind, value
    elif kind is not None and isinstance(value, Mapping):
        for name, below in value.items():
            yield from _leaves(inside(kind, name), below, (*key, name))


def _known(kind: Kind, names: Any, key: Key) -> Iterator[Key]:
    if isinstance(kind, Leaf):
        yield key
        return
    below = names if isinstance(names, Mapping) else {}
    for name in below if isinstance(kind, Named) else kind.model_fields:
        found = inside(kind, name)
        if found is not None:
            yield from _known(found, below.get(name), (*key, name))
