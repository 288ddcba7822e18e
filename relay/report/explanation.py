"""Verdicts told to people: what was asked, what was found, what followed from it.

`facts` is the JSON form that `--json` prints; `lines` reads that form, so that a message of last week and one
verified now are explained by the same words. `kept` is the form in the journal, and `named` makes `facts` of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any

from relay.decide.policy import Decision
from relay.verdict import Step, Verdicts

_SINGLE = ("spf", "helo", "arc", "dmarc", "iprev")  # verdicts that a message has one of
_TRACED = ("spf", "helo", "dmarc")  # the verdicts that have a trace


def facts(verdicts: Verdicts) -> dict[str, Any]:
    """The verdicts as JSON-able values, named as in `relay/verdict.py`; addresses as text."""
    return named(kept(verdicts))


def kept(verdicts: Verdicts) -> dict[str, Any]:
    """As `facts`, but a step is a tuple of its values: half the work and two thirds of the octets a message."""
    values = _values(verdicts)
    values["steps"] = [*map(tuple, verdicts.steps)]  # plain ones: an encoder may know no others
    for name in _SINGLE:
        values[name] = _values(values[name])
    for name in _TRACED:
        values[name]["trace"] = [*map(tuple, values[name]["trace"])]
    values["dkim"] = [_values(one) for one in verdicts.dkim]
    values["iprev"]["ip"] = str(verdicts.iprev.ip)
    return values


def named(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `kept` made, as `facts` has it."""
    traces = {name: {**values[name], "trace": _named(values[name]["trace"])} for name in _TRACED}
    return {**values, **traces, "steps": _named(values["steps"])}


def _named(steps: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    return [Step(*step)._asdict() for step in steps]


def _values(one: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, as they are: `dataclasses.asdict` would copy what is in them."""
    names, read = _reading(one.__class__)
    return dict(zip(names, read(one), strict=True))


@cache
def _reading(kind: type) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    """The names of a dataclass's fields, and what reads them all at once."""
    names = tuple(field.name for field in fields(kind))
    return names, attrgetter(*names)


def brief(verdicts: Verdicts) -> dict[str, object]:
    """The verdicts for a log line: `spf=pass`, `dkim=["pass d=example.org s=r1"]`."""
    return {
        "dmarc": str(verdicts.dmarc.result),
        "author": verdicts.dmarc.author_domain,
        "disposition": str(verdicts.dmarc.disposition),
        "spf": str(verdicts.spf.result),
        "helo": str(verdicts.helo.result),
        "dkim": [f"{one.result} d={one.domain} s={one.selector}" for one in verdicts.dkim],
        "arc": str(verdicts.arc.result),
        "iprev": str(verdicts.iprev.result),
        "queries": verdicts.queries,
        "elapsed_ms": round(verdicts.seconds * 1000, 1),
    }


def decided(decision: Decision) -> dict[str, object]:
    """The decision as JSON-able values."""
    return {
        "action": str(decision.action),
        "applied": str(decision.applied),
        "rule": decision.rule,
        "reason": decision.reason,
        "override": decision.override,
    }


def decision_line(values: Mapping[str, Any]) -> str:
    """What was decided, by which rule and why. values: as `decided` made them."""
    rule = f"by {values['rule']}" if values["rule"] else "no rule asked for more"
    monitored = "" if values["applied"] == values["action"] else f" (monitored: {values['applied']} was done)"
    reason = f": {values['reason']}" if values["reason"] else ""
    override = f", override {values['override']}" if values["override"] else ""
    return f"decision: {values['action']}{monitored}, {rule}{reason}{override}"


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The explanation, line by line. found: as `facts` made it; foreign text in it is not yet escaped."""
    yield from _iprev(found["iprev"])
    yield from _spf("SPF of MAIL FROM", found["spf"])
    yield from _spf("SPF of HELO", found["helo"])
    yield from _dkim(found["dkim"])
    yield from _arc(found["arc"])
    yield from _dmarc(found["dmarc"])
    yield f"DNS: {found['queries']} questions, {found['seconds'] * 1000:.0f} ms for all checks together"
    yield from _steps(found["steps"])


def _head(what: str, result: str, *rest: str) -> str:
    return f"{what}: {result}" + "".join(f", {one}" for one in rest if one)


def _iprev(verdict: Mapping[str, Any]) -> Iterator[str]:
    agrees = "EHLO agrees" if verdict["helo_agrees"] else "EHLO said something else"
    name = f"{verdict['name']} ({agrees})" if verdict["name"] else ""
    yield _head(f"Reverse DNS of {verdict['ip']}", verdict["result"], name, verdict["problem"])


def _spf(what: str, verdict: Mapping[str, Any]) -> Iterator[str]:
    matched = f"by {verdict['mechanism']}" if verdict["mechanism"] else ""
    cost = f"{verdict['lookups']} of 10 lookups" if verdict["lookups"] else ""
    yield _head(what, verdict["result"], f"domain {verdict['domain'] or '(none)'}", matched, cost, verdict["problem"])
    yield from _steps(verdict["trace"])
    if verdict["explanation"]:
        yield f"  the domain explains: {verdict['explanation']}"


def _dkim(signatures: list[Mapping[str, Any]]) -> Iterator[str]:
    if not signatures:
        yield "DKIM: none, the message is not signed"
    for number, one in enumerate(signatures, 1):
        key = f"{one['algorithm']} {one['key_bits']} bits" if one["key_bits"] else one["algorithm"]
        body = {True: "body hash matches", False: "body hash differs", None: ""}[one["body_hash_matches"]]
        testing = "the key is for testing (t=y)" if one["testing"] else ""
        where = f"d={one['domain']} s={one['selector']}"
        yield _head(f"DKIM signature {number}", one["result"], where, key, body, testing, one["problem"])


def _arc(verdict: Mapping[str, Any]) -> Iterator[str]:
    chain = f"sealed by {' then '.join(verdict['sealers'])}" if verdict["sealers"] else ""
    trust = "" if verdict["result"] == "none" else ("trusted" if verdict["trusted"] else "not from a trusted sealer")
    yield _head("ARC", verdict["result"], chain, trust, verdict["problem"])


def _dmarc(verdict: Mapping[str, Any]) -> Iterator[str]:
    aligned = f"aligned by {' and '.join(verdict['aligned_by'])}" if verdict["aligned_by"] else "nothing is aligned"
    policy = f"the domain asks for {verdict['disposition']}" if verdict["result"] == "fail" else ""
    testing = "lowered one step because of t=y" if verdict["testing"] else ""
    author = verdict["author_domain"] or "(no single author domain)"
    yield _head("DMARC", verdict["result"], f"From {author}", aligned, policy, testing, verdict["problem"])
    if verdict["record"]:
        yield f"  _dmarc.{verdict['domain']}: {verdict['record']}"
    if verdict["organizational_domain"]:
        yield f"  organizational domain: {verdict['organizational_domain']}"
    yield from _steps(verdict["trace"])


def _steps(steps: list[Mapping[str, Any]]) -> Iterator[str]:
    for step in steps:
        took = f"  ({step['seconds'] * 1000:.1f} ms)" if step["seconds"] else ""
        found = f" → {step['found']}" if step["found"] else ""
        yield f"{'  ' * (step['depth'] + 1)}{step['what']}{found}{took}"
