"""What a check finds, what it may look at, and the two questions that several checks ask."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from relay.config.explain import nearest
from relay.config.files import Read, attempt, chain, expiry, exposed, pair_fault, private_key, read_file
from relay.config.networks import Machine, this_machine
from relay.config.shape import Key


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
