"""What a check finds, what it may look at, and the questions that several checks ask."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from relay.config.explain import nearest
from relay.config.files import Read, attempt, chain, expiry, exposed, pair_fault, private_key, read_file, secret_in
from relay.config.networks import Machine, this_machine
from relay.config.shape import Key
from relay.config.table import Table


@dataclass(frozen=True, slots=True)
class Finding:
    key: Key
    text: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """What the checks may look at beyond the configuration. user: our number; now: in UTC."""

    read: Read
    machine: Machine
    user: int
    now: datetime


def this_world() -> World:
    return World(read_file, this_machine(), os.geteuid(), datetime.now(UTC))


def check_names(key: Key, named: Iterable[str], names: Iterable[str], what: str) -> Iterator[Finding]:
    """All that are `named` are among `names`, those of the tables `[what.…]`."""
    known = list(names)
    for name in named:
        if name not in known:
            near = nearest(name, known)
            yield Finding(key, f"there is no [{what}.{name}]" + (f"; did you mean {near}?" if near else ""))


def check_pair(key: Key, certificate: Path | None, private: Path | None, world: World) -> Iterator[Finding]:
    """A certificate and its key, of a listener or of ours as a client."""
    certificates = parsed = None
    if certificate is not None:
        file, fault = attempt(world.read, certificate)
        try:
            certificates = chain(file.content) if file else None
        except ValueError as error:
            fault = f"{certificate}: {error}"
        if fault:
            yield Finding((*key, "certificate"), fault)
        elif certificates and (late := expiry(certificates[0], world.now)):
            yield Finding((*key, "certificate"), late, is_warning=True)
    if private is not None:
        file, fault = attempt(world.read, private)
        if file:
            fault = exposed(file, private, world.user)
            try:
                parsed = private_key(file.content)
            except ValueError as error:
                fault = fault or f"{private}: {error}"
        if fault:
            yield Finding((*key, "key"), fault)
    if certificates and parsed and (fault := pair_fault(certificates, parsed)):
        yield Finding((*key, "key"), f"{fault}: {private} and {certificate}")


def check_secret(key: Key, table: Table, name: str, world: World) -> Iterator[Finding]:
    """A secret and the file that may hold it instead: one of them, kept as a secret."""
    secret: SecretStr | None = getattr(table, name)
    path = getattr(table, f"{name}_file")
    if secret is not None and path is not None:
        yield Finding((*key, name), f"there is a `{name}_file` too; keep one of them")
    if path is None:
        yield from check_text((*key, name), secret.get_secret_value() if secret is not None else None)
        return
    file, fault = attempt(world.read, path)
    if file:
        fault = exposed(file, path, world.user)
        yield from check_text((*key, f"{name}_file"), secret_in(file))
    if fault:
        yield Finding((*key, f"{name}_file"), fault)


def check_text(key: Key, text: str | None) -> Iterator[Finding]:
    # RFC 4616 §2: NUL parts the fields of PLAIN, so none may stand in one; nor has a line's end a use.
    if text is not None and (not text or not text.isprintable()):
        yield Finding(key, "is empty or holds characters that no login can have")
