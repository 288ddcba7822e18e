"""`relay explain`: the story of a message, as the journal has it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from relay.cli.options import config_option, json_option, load_or_exit, read_message

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from relay.fact import Fact

    Story = Sequence[tuple[float, Fact]]


@click.command()
@click.argument("about", metavar="ID|FILE")
@config_option
@json_option
def explain(about: str, path: Path | None, as_json: bool) -> None:
    """Tell the story of a message: what was found, what was decided by which rule, what the client heard.

    ID is that of a message or a session, from a reply, a log line or our Received field. FILE is a message that
    came through this relay ("-": standard input): the id is read from its topmost Received field by our hostname.

    The story is in the journal, which a running relay writes each second. Exit 1: the journal has nothing about it.
    """
    import json
    import sqlite3

    from relay.report.journal import FILE_NAME, story

    config = load_or_exit(path)
    id, journal = _id(about, config.hostname), config.data / FILE_NAME
    try:
        told = list(story(journal, id))
    except FileNotFoundError:
        _fail(f"there is no journal {journal}: no relay has run with this configuration")
    except (sqlite3.Error, OSError) as error:
        _fail(f"the journal {journal} cannot be read: {error}")
    if not told:
        _fail(f"the journal {journal} has nothing about {id}: unknown, past [journal] keep, or of this very second")
    if as_json:
        click.echo(json.dumps(_as_json(id, told), indent=2))
        return
    for line in _lines(told):
        click.echo(line)


def _id(about: str, hostname: str) -> str:
    """The id itself, or the one that the message in the file carries."""
    from relay.edit.trace import own_id
    from relay.errors import MalformedMessage
    from relay.message import Message

    if re.fullmatch("[0-9a-z]{16}", about):
        return about
    try:
        with click.open_file(about, "rb") as file:
            id = own_id(Message.parse(read_message(file)), hostname)
    except OSError as error:
        _fail(f"{about} is neither an id (16 characters of 0-9 and a-z) nor a file that can be read: {error.strerror}")
    except MalformedMessage as error:
        _fail(f"{about} is no message: {error}")
    if id is None:
        _fail(f"no Received field in {about} is by {hostname} and has an id")
    return id


def _as_json(id: str, told: Story) -> dict[str, Any]:
    decided, reply = _last(told, "decide.decided"), _answer(told)
    facts = [
        {"time": _time(time), "event": fact.event, "level": fact.level, "values": _values(fact)} for time, fact in told
    ]
    return {"id": id, "facts": facts, "decision": decided.values if decided else None, "reply": reply}


def _values(fact: Fact) -> Mapping[str, object]:
    from relay.report.explanation import named
    from relay.report.journal import EXPLAINED

    return named(fact.values) if fact.event == EXPLAINED else fact.values


def _lines(told: Story) -> Iterator[str]:
    """What is foreign in it is escaped."""
    from relay.escape import escape, quote
    from relay.report.explanation import decision_line, lines
    from relay.report.journal import EXPLAINED

    for time, fact in told:
        if fact.event == EXPLAINED:
            yield f"{_time(time)} {fact.event}"
            yield from (f"    {escape(line)}" for line in lines(_values(fact)))
        else:
            values = "".join(f" {escape(key)}={quote(value)}" for key, value in fact.values.items())
            yield f"{_time(time)} {escape(fact.event)}{values}"
    if decided := _last(told, "decide.decided"):
        yield escape(decision_line(decided.values))
    if reply := _answer(told):
        yield escape(f"reply: {reply}")
    elif _last(told, "accept.received"):
        yield "reply: none that the journal knows of"


def _answer(told: Story) -> str | None:
    """What the client heard last: after its final dot, or when it was turned away before."""
    answers = [str(fact.values["reply"]) for _, fact in told if fact.event in ("pipeline.answered", "accept.rejected")]
    return answers[-1] if answers else None


def _last(told: Story, event: str) -> Fact | None:
    return next((fact for _, fact in reversed(told) if fact.event == event), None)


def _time(seconds: float) -> str:
    """RFC 3339, UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fail(text: str) -> NoReturn:
    from relay.escape import escape

    click.echo(escape(f"relay: {text}"), err=True)
    sys.exit(1)
