"""`relay queue`: what waits, why, and what is to become of it; beside a running relay or without one."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from relay.cli.options import config_option, json_option, load_or_exit
from relay.cli.output import print_source, print_table
from relay.escape import escape

if TYPE_CHECKING:
    from relay.config.models import Config
    from relay.queue.commands import Answer

T = TypeVar("T")
Request = dict[str, Any]
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

STATES = ("waiting", "active", "report", "held")
_PAGE = 500  # messages asked for at once
_MAX_WHY = 100  # characters of a reply in a table
_TIMES = ("last_attempt", "next_attempt", "expires", "warn")
_DONE = {"hold": "held", "release": "released", "retry": "due now", "drop": "dropped", "flush": "due now"}
# Why a verb left recipients alone, by their state.
_LEFT = {
    "active": "an attempt is under way",
    "held": "held: `relay queue release` frees it",
    "report": "its sender is about to be told",
    "waiting": "not held",
}


def _check_ids(ctx: click.Context, param: click.Parameter, value: T) -> T:
    for id in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
        if id and not re.fullmatch(r"[0-9a-z]{16}", id):
            raise click.BadParameter("an id is 16 characters of 0-9 and a-z")
    return value


def _check_mailbox(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if value and "@" not in value and value != "<>" and value.lower() != "postmaster":
        raise click.BadParameter("write an address, or @domain")
    return value


def _check_age(ctx: click.Context, param: click.Parameter, value: str) -> float:
    from relay.config.units import parse_duration

    try:
        return parse_duration(value) if value else 0.0
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The conditions of a Selection; all that are given must hold."""
    options: tuple[Decorator, ...] = (
        click.option("--sender", metavar="ADDRESS", default="", callback=_check_mailbox, help='Or "@domain", or "<>".'),
        click.option("--recipient", metavar="ADDRESS", default="", callback=_check_mailbox, help='Or "@domain".'),
        click.option("--hop", metavar="NAME", default="", help="The next hop."),
        click.option("--state", type=click.Choice(STATES), help="Of the recipient."),
        click.option("--older", metavar="AGE", default="", callback=_check_age, help='Such as "1h" or "2d".'),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Whom a verb is about: ids, conditions, or --all."""
    everything = click.option("--all", "everything", is_flag=True, help="Everything that it can be done to.")
    ids = click.argument("ids", metavar="[ID]...", callback=_check_ids, nargs=-1)
    return ids(_filters(everything(json_option(config_option(command)))))


@click.group()
def queue() -> None:
    """See what mail waits and why; try it now, hold, release or drop it.

    A running relay is asked. Where none runs, the queue itself is opened.

    A message has a state for each of its recipients: "waiting" for its next attempt, "active" in one, "report" when
    its sender is about to be told of its end, "held" until you decide. Conditions given together must all hold.

    Exit code 1: nothing was there to be shown or changed, or the queue cannot be used.
    """


@queue.command("list")
@_filters
@click.option("-n", "limit", type=click.IntRange(1), default=50, show_default=True, help="Messages at most.")
@click.option("--after", metavar="ID", default="", callback=_check_ids, help="Go on behind this message.")
@json_option
@config_option
def list_(path: Path | None, as_json: bool, limit: int, after: str, **filters: Any) -> None:
    """List messages, oldest first. Of their recipients it lists those that are meant."""
    found = list(islice(_pages(load_or_exit(path), _selection(**filters), limit, after), limit))
    if as_json:
        click.echo(json.dumps([_as_json(one) for one in found], indent=2))
        return
    now = _now()
    head = ("ID", "AGE", "SIZE", "FROM", "TO", "HOP", "STATE", "NEXT", "WHY")
    print_table([head, *(_row(one, now) for one in found)])
    if len(found) == limit:
        click.echo(f"(there may be more: --after {found[-1]['id']})", err=True)


@queue.command()
@click.argument("id", callback=_check_ids)
@click.option("--source", is_flag=True, help="Print the message itself, as it will leave.")
@json_option
@config_option
def show(path: Path | None, as_json: bool, source: bool, id: str) -> None:
    """Show a message and what was tried. For each recipient: state, last reply, next attempt, and when it expires."""
    if source and as_json:
        raise click.UsageError("--source and --json exclude each other")
    answer = _ask(load_or_exit(path), {"verb": "source" if source else "show", "id": id})
    message = answer.values.get("message")
    if answer.content is not None:
        print_source(answer.content)
    elif message is None:
        _fail(f"no message {id} in the queue: delivered, reported or dropped (`relay explain {id}`), or never here")
    elif as_json:
        click.echo(json.dumps(_as_json(message), indent=2))
    else:
        for line in _story(message, _now()):
            click.echo(escape(line))


@queue.command()
@_selecting
def retry(path: Path | None, as_json: bool, **selecting: Any) -> None:
    """Try waiting mail at once. A hop that was thought to be down is tried too."""
    _move("retry", path, as_json, **selecting)


@queue.command()
@_selecting
def hold(path: Path | None, as_json: bool, **selecting: Any) -> None:
    """Hold waiting mail. It stays, and nothing happens to it until it is released or dropped."""
    _move("hold", path, as_json, **selecting)


@queue.command()
@_selecting
def release(path: Path | None, as_json: bool, **selecting: Any) -> None:
    """Release held mail. It is tried at once, and then for as long as new mail would be."""
    _move("release", path, as_json, **selecting)


@queue.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@_selecting
def drop(path: Path | None, as_json: bool, yes: bool, **selecting: Any) -> None:
    """Drop mail. It is gone, and neither its sender nor its recipient is told."""
    if not yes and sys.stdin.isatty():
        selection = _request("drop", **selecting)["selection"]
        depth = _ask(load_or_exit(path), {"verb": "stats", "selection": selection}).values["depth"]
        if count := sum(one["recipients"] for one in depth if one["state"] != "active"):
            click.confirm(f"Drop {_count(count, 'recipient')}? Nobody will be told.", abort=True, err=True)
    elif not yes and selecting["everything"]:
        raise click.UsageError("to drop everything unasked, say --yes")
    _move("drop", path, as_json, **selecting)


@queue.command()
@click.argument("hop", required=False)
@json_option
@config_option
def flush(path: Path | None, as_json: bool, hop: str | None) -> None:
    """Try all that waits for a hop. At once, though it was thought to be down; without HOP, for every hop."""
    config = load_or_exit(path)
    if hop is not None and hop not in config.hop:
        raise click.BadParameter(f"no hop of that name; there are: {', '.join(config.hop)}", param_hint="HOP")
    _print_moved("flush", _ask(config, {"verb": "flush", "hop": hop or ""}), as_json)


@queue.command()
@_filters
@json_option
@config_option
def stats(path: Path | None, as_json: bool, **filters: Any) -> None:
    """Count what is there. By hop and state: recipients, messages, and the age of the oldest."""
    request, now = {"verb": "stats", "selection": _selection(**filters)}, _now()
    depth = _ask(load_or_exit(path), request).values["depth"]
    if as_json:
        rows = [{**one, "oldest": _time(one["oldest"]), "oldest_seconds": _age(one["oldest"], now)} for one in depth]
        click.echo(json.dumps(rows, indent=2))
        return
    head = ("HOP", "STATE", "RECIPIENTS", "MESSAGES", "OLDEST")
    counts = [
        (one["hop"], one["state"], str(one["recipients"]), str(one["messages"]), _span(_age(one["oldest"], now)))
        for one in depth
    ]
    print_table([head, *counts])


# --- requests ------------------------------------------------------------------------------------


def _selection(*, ids: Sequence[str] = (), **filters: Any) -> Request:
    given = {name: value for name, value in filters.items() if value}
    return {**given, "ids": list(ids)} if ids else given


def _request(verb: str, *, everything: bool, **selecting: Any) -> Request:
    selection = _selection(**selecting)
    if everything == bool(selection):
        raise click.UsageError("name messages or conditions, or --all")
    return {"verb": verb, "selection": selection, "all": everything}


def _move(verb: str, path: Path | None, as_json: bool, **selecting: Any) -> None:
    """Do it, say how many, exit 1 when there were none."""
    request = _request(verb, **selecting)
    answer = _ask(load_or_exit(path), request)
    _print_moved(verb, answer, as_json)
    sys.exit(0 if answer.values["recipients"] else 1)


def _print_moved(verb: str, answer: Answer, as_json: bool) -> None:
    values = answer.values
    if as_json:
        click.echo(json.dumps(values))
        return
    recipients, messages = _count(values["recipients"], "recipient"), _count(values["messages"], "message")
    click.echo(f"{recipients} of {messages} {_DONE[verb]}")
    for state, count in values["others"].items():
        click.echo(f"{_count(count, 'recipient')} left alone: {_LEFT[state]}", err=True)


def _pages(config: Config, selection: Request, limit: int, after: str) -> Iterator[Mapping[str, Any]]:
    size = min(limit, _PAGE)
    while True:
        request = {"verb": "list", "selection": selection, "limit": size, "after": after}
        page = _ask(config, request).values["messages"]
        yield from page
        if len(page) < size:
            return
        after = page[-1]["id"]


def _ask(config: Config, request: Request) -> Answer:
    """The answer of the running relay, or of its queue when none runs; a message and exit 1 without one."""
    from relay.errors import ConfigError
    from relay.queue.control import SOCKET, ControlError, ask
    from relay.queue.engine import NotKept

    try:
        return ask(config.data / SOCKET, request) or asyncio.run(_ask_store(config, request))
    except ControlError as error:
        _fail(str(error))
    except (ConfigError, NotKept, OSError) as error:
        _fail(f"the queue cannot be used: {error}")


async def _ask_store(config: Config, request: Request) -> Answer:
    """As the relay would answer if it ran. Only what changes something takes the lock: a relay may start meanwhile."""
    from relay.clock import SystemClock
    from relay.errors import ConfigError, Problem
    from relay.queue.commands import Commands
    from relay.queue.lock import FILE_NAME as LOCK
    from relay.queue.lock import Lock
    from relay.queueing import FILE_NAME, make_store
    from relay.report.journal import FILE_NAME as JOURNAL
    from relay.report.journal import Journal

    clock, file = SystemClock(), config.data / FILE_NAME
    journal = Journal(config.data / JOURNAL, config.journal.keep, clock, lambda fact: None)
    store = make_store(config, clock, journal.record)
    commands = Commands(
        store,
        extend=lambda: config.queue.give_up,
        wake=lambda: None,
        flush=lambda hop: None,
        record=journal.record,
    )
    if not store.is_shared and not file.exists():
        raise ConfigError(Problem(str(file), "", "it is not there: no relay has run with this configuration"))
    is_change = request["verb"] in _DONE
    with Lock(config.data / LOCK) if is_change and not store.is_shared else nullcontext():
        try:
            if is_change:
                await journal.open()
            await store.open(is_supervisor=is_change)
            return await commands.answer(request)
        finally:
            await store.close()
            await journal.close()


# --- for people ----------------------------------------------------------------------------------


def _row(message: Mapping[str, Any], now: float) -> tuple[str, ...]:
    first, *more = recipients = message["recipients"]
    due = [one["next_attempt"] for one in recipients if one["next_attempt"] is not None]
    return (
        message["id"],
        _span(_age(message["arrived"], now)),
        str(message["size"]),
        message["reverse_path"] or "<>",
        first["address"] + (f" +{len(more)}" if more else ""),
        *(",".join(dict.fromkeys(one[name] for one in recipients)) for name in ("hop", "state")),
        _ahead(min(due), now) if due else "-",
        _why(first)[:_MAX_WHY],
    )


def _why(recipient: Mapping[str, Any]) -> str:
    """The hop's word where there is one; for mail that is held our own comes first."""
    words = (recipient["cause"], recipient["reply"])
    return next(filter(None, words if recipient["state"] == "held" else reversed(words)), "")


def _story(message: Mapping[str, Any], now: float) -> Iterator[str]:
    yield f"id: {message['id']}"
    yield f"arrived: {_time(message['arrived'])} ({_span(_age(message['arrived'], now))} ago)"
    yield f"reverse-path: {message['reverse_path'] or '<>'}"
    login = f", login {message['login']}" if message["login"] else ""
    yield f"client: {message['ip']}, EHLO {message['helo'] or '-'}, listener {message['listener'] or '-'}{login}"
    yield f"size: {message['size']}"
    if message["envid"]:
        yield f"envid: {message['envid']}"
    if not message["reportable"]:
        yield "reports: none, its sender is not to be told what becomes of it"
    for one in message["recipients"]:
        yield ""
        yield f"to: {one['address']}"
        yield f"  hop: {one['hop']}"
        yield f"  state: {one['state']}" + (f" ({one['report']})" if one["report"] else "")
        last = f", the last {_span(_age(one['last_attempt'], now))} ago" if one["last_attempt"] else ""
        yield f"  attempts: {one['attempts']}{last}"
        if one["crashes"]:
            yield f"  crashes: {one['crashes']} attempts in a row ended with the relay"
        for name in ("next_attempt", "warn", "expires"):
            if one[name] is not None and one["state"] == "waiting":
                yield f"  {name.replace('_', '-')}: {_time(one[name])} ({_ahead(one[name], now)})"
        for name in ("notify", "reply", "host", "cause"):
            if one[name]:
                yield f"  {name}: {one[name]}"


def _as_json(message: Mapping[str, Any]) -> dict[str, Any]:
    """With times for people: RFC 3339, UTC."""
    recipients = [
        {name: _time(value) if name in _TIMES and value is not None else value for name, value in one.items()}
        for one in message["recipients"]
    ]
    return {**message, "arrived": _time(message["arrived"]), "recipients": recipients}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _age(then: float, now: float) -> float:
    return max(0.0, round(now - then, 1))


def _ahead(then: float, now: float) -> str:
    return f"in {_span(then - now)}" if then > now else "due"


def _span(seconds: float) -> str:
    """In the unit that tells two such spans apart: `89 s`, `89 min`, `35 h`, `4 d`."""
    for unit, worth, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 36)):
        if seconds < worth * most:
            return f"{seconds / worth:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def _time(seconds: float) -> str:
    """RFC 3339, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now() -> float:
    from relay.clock import SystemClock

    return SystemClock().time()


def _fail(text: str) -> NoReturn:
    click.echo(escape(f"relay: {text}"), err=True)
    sys.exit(1)
