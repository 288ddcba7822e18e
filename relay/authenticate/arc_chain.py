"""The ARC sets of a message, put in order: who sealed, in which order, and whether that is a chain at all.

STANDARDS  RFC 8617 §4.1 (the three fields), §4.2.1 (instances), §5.2 steps 1 to 3 (structure).
TRUSTS     nothing.
FAILS      never: what is wrong is in `problem`, the first thing that is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from relay.authenticate.dkim_key import Unverifiable
from relay.authenticate.dkim_signature import read_tags
from relay.lexical import Kind, tokens, unfold
from relay.message import Field, Message

MAX_SETS = 50  # RFC 8617 §5.2 step 1
RESULTS, SIGNATURE, SEAL = b"arc-authentication-results", b"arc-message-signature", b"arc-seal"
_NAMES = frozenset((RESULTS, SIGNATURE, SEAL))

_INSTANCE = re.compile(r"[0-9]{1,2}\Z")
_MAX_NAME = 256  # octets in front of the first ";" of an ARC-Authentication-Results field; `i=1` has three


@dataclass(frozen=True, slots=True)
class ArcSet:
    """One hop's three fields, and the tags of two of them."""

    results: Field
    signature: Field
    seal: Field
    signature_tags: Mapping[str, str]
    seal_tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Chain:
    """sets: i=1 first; () when there is a problem. highest: the largest instance that stands anywhere, 0 for none.

    closed: its seal says cv=fail, so that nobody may add to the chain (RFC 8617 §5.1 step 2).
    """

    sets: tuple[ArcSet, ...] = ()
    highest: int = 0
    closed: bool = False
    problem: str = ""


_NO_CHAIN = Chain()


def read_chain(message: Message) -> Chain:
    """The chain of a message; Chain() when it has none."""
    fields = [field for field in message.fields if field.name in _NAMES]
    if not fields:
        return _NO_CHAIN
    found: dict[tuple[int, bytes], tuple[Field, Mapping[str, str]]] = {}
    problem = ""
    for field in fields:
        tags: Mapping[str, str] = {}
        try:
            if field.name != RESULTS:
                tags = read_tags(field)
            instance = _instance(tags.get("i", "") if tags else _results_instance(field))
        except Unverifiable as why:
            problem = problem or f"{field.name.decode()}: {why.problem}"
            continue
        if not instance:
            problem = problem or f"{field.name.decode()}: i= is not a number from 1 to {MAX_SETS}"
        elif (instance, field.name) in found:
            problem = problem or f"there are two {field.name.decode()} fields with i={instance}"
        else:
            found[instance, field.name] = field, tags
    highest = max((instance for instance, _ in found), default=0)
    _, newest = found.get((highest, SEAL), (None, {}))
    closed = newest.get("cv") == "fail"
    if not problem and not all(
        (n, name) in found for n in range(1, highest + 1) for name in (RESULTS, SIGNATURE, SEAL)
    ):
        problem = "a set is missing, or a field of one"
    if problem:
        return Chain(highest=highest, closed=closed, problem=problem)
    sets = tuple(
        ArcSet(
            found[n, RESULTS][0],
            found[n, SIGNATURE][0],
            found[n, SEAL][0],
            found[n, SIGNATURE][1],
            found[n, SEAL][1],
        )
        for n in range(1, highest + 1)
    )
    return Chain(sets, highest, closed, _status_problem(sets))


def results_text(field: Field) -> str:
    """What stands behind `i=…;` in an ARC-Authentication-Results field, folds undone."""
    return unfold(field.value).decode("utf-8", "replace").partition(";")[2].strip(" \t")


def _status_problem(sets: tuple[ArcSet, ...]) -> str:
    """RFC 8617 §5.2 step 3C."""
    for n, found in enumerate(sets, 1):
        status = found.seal_tags.get("cv")
        if status != ("pass" if n > 1 else "none"):
            return f"the seal with i={n} does not say cv={'pass' if n > 1 else 'none'}"
        if "h" in found.seal_tags:  # RFC 8617 §4.1.3
            return f"the seal with i={n} has h="
    return ""


def _instance(text: str) -> int:
    """0 for what is no instance."""
    return int(text) if _INSTANCE.match(text) and int(text) <= MAX_SETS else 0


def _results_instance(field: Field) -> str:
    """RFC 8617 §4.1.1: `i=1;`, with white space and comments wherever they like."""
    name = ""
    for token in tokens(unfold(field.value[:_MAX_NAME]).decode("utf-8", "replace")):
        if token.text == ";":
            return name[2:] if name.startswith("i=") else ""
        if token.kind not in (Kind.SPACE, Kind.COMMENT):
            name += token.text
    return ""
