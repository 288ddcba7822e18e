"""`relay inbox`: list, show and delete what the inbox holds; works beside a running relay."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from relay.cli.options import config_option, json_option, load_or_exit
from relay.cli.output import print_source, print_table
from relay.escape import escape

if TYPE_CHECKING:
    from relay.inbox.store import Inbox, Stored

T = TypeVar("T")


def _check_ids(ctx: click.Context, param: click.Parameter, value: T) -> T:
    for id in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
        if not re.fullmatch(r"[0-9a-z]{16}|latest", id):
            raise click.BadParameter('an id is 16 characters of 0-9 and a-z, or "latest"')
    return value


@click.group()
def inbox() -> None:
    """List, show and delete what the inbox holds. ID may be `latest`."""


@inbox.command("list")
@click.option("-n", "limit", type=click.IntRange(1), default=50, show_default=True, help="Messages at most.")
@click.option("--skip", type=click.IntRange(0), default=0, help="Messages to pass over, from the newest.")
@json_option
@config_option
def list_(path: Path | None, as_json: bool, limit: int, skip: int) -> None:
    """List the messages, newest first."""
    found = _with_inbox(path, lambda store: store.list(limit, skip))
    if as_json:
        click.echo(json.dumps([_as_json(one) for one in found], indent=2))
        return
    rows = [("ID", "TIME", "FROM", "TO", "SIZE", "SUBJECT")]
    for one in found:
        more = f" +{len(one.recipients) - 1}" if len(one.recipients) > 1 else ""
        sender, to = one.reverse_path or "<>", one.recipients[0] if one.recipients else ""
        rows.append((one.id, _time(one.time), sender, to + more, str(one.size), one.subject[:70]))
    print_table(rows)


@inbox.command()
@click.argument("id", callback=_check_ids)
@json_option
@config_option
def show(path: Path | None, as_json: bool, id: str) -> None:
    """Show a message: its envelope, its header and its text."""
    from relay.errors import MalformedMessage
    from relay.inbox.mime import display, preview
    from relay.message import Message

    stored, source = _with_inbox(path, lambda store: _find(store, id))
    try:
        fields = Message.parse(source).fields
    except MalformedMessage:
        fields = ()
    headers = [(field.raw.partition(b":")[0].decode("ascii", "replace"), display(field.value)) for field in fields]
    text = preview(source)
    if as_json:
        click.echo(json.dumps({**_as_json(stored), "headers": headers, "text": text}, indent=2))
        return
    for name, value in _as_json(stored).items():
        if name in ("from", "subject", "date", "message_id"):  # they stand in the header below
            continue
        shown = ", ".join(value) if isinstance(value, list) else "<>" if name == "reverse_path" and not value else value
        click.echo(escape(f"{name.replace('_', '-')}: {'-' if shown is None else shown}"))
    click.echo()
    for name, value in headers:
        click.echo(escape(f"{name}: {value}"))
    click.echo()
    for line in (text or "(no text part: see `relay inbox source`)").splitlines():
        click.echo(escape(line.expandtabs()))


@inbox.command()
@click.argument("id", callback=_check_ids)
@config_option
def source(path: Path | None, id: str) -> None:
    """Print a message as it was delivered, octet by octet; on a terminal with its control characters escaped."""
    _, content = _with_inbox(path, lambda store: _find(store, id))
    print_source(content)


@inbox.command()
@click.argument("ids", metavar="[ID]...", callback=_check_ids, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Delete all messages.")
@json_option
@config_option
def delete(path: Path | None, as_json: bool, ids: tuple[str, ...], everything: bool) -> None:
    """Delete messages; exit code 1 if there were none of them."""
    if everything == bool(ids):
        raise click.UsageError("name the messages, or --all")
    count = _with_inbox(path, lambda store: _delete(store, None if everything else ids))
    click.echo(json.dumps({"deleted": count}) if as_json else f"{count} deleted")
    sys.exit(1 if ids and not count else 0)


async def _find(store: Inbox, id: str) -> tuple[Stored, bytes]:
    id = await _resolve(store, id)
    stored, content = await store.get(id), await store.source(id)
    if stored is None or content is None:
        raise click.ClickException(f"no message {id} in the inbox")
    return stored, content


async def _delete(store: Inbox, ids: tuple[str, ...] | None) -> int:
    return await store.delete(None if ids is None else [await _resolve(store, id) for id in ids])


async def _resolve(store: Inbox, id: str) -> str:
    if id != "latest":
        return id
    newest = await store.list(1)
    if not newest:
        raise click.ClickException("the inbox is empty")
    return newest[0].id


def _with_inbox(path: Path | None, work: Callable[[Inbox], Awaitable[T]]) -> T:
    """What `work` makes of the configured inbox; a message and exit 1 if there is none."""
    import sqlite3

    from relay.clock import SystemClock
    from relay.errors import ConfigError
    from relay.inbox.store import FILE_NAME, Inbox

    config = load_or_exit(path)
    file = config.data / FILE_NAME

    async def opened() -> T:
        store = Inbox(file, "inbox", config.inbox.keep, SystemClock(), lambda fact: None)
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    try:
        if not file.exists():
            raise click.ClickException(f"no inbox at {file}: nothing has been delivered to it yet")
        return asyncio.run(opened())
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    except (sqlite3.Error, OSError) as error:
        raise click.ClickException(f"the inbox at {file} cannot be used: {error}") from error


def _as_json(stored: Stored) -> dict[str, object]:
    from dataclasses import asdict

    values = {("from" if name == "author" else name): value for name, value in asdict(stored).items()}
    return {**values, "time": _time(stored.time), "recipients": list(stored.recipients)}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
