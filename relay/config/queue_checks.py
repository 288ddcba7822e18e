"""The queue and what belongs to it: the database can be named, times are in order, hops are there.

TRUSTS     that each value is well formed.
FAILS      Findings. No url is in their text, for it may hold a password.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from relay.config.database import parse_database
from relay.config.files import attempt, secret_in
from relay.config.finding import Finding, World, check_names, check_secret
from relay.config.models import Config, HopTrouble, Mode, Route


def check_queue(config: Config, world: World) -> Iterator[Finding]:
    yield from check_secret(("queue",), config.queue, "url", world)
    yield from _check_url(config, world)
    queue = config.queue
    if queue.first_retry > queue.max_retry:
        yield Finding(
            ("queue", "first_retry"), f"{queue.first_retry:g}s is more than queue.max_retry, {queue.max_retry:g}s"
        )
    for name, seconds in (("first_retry", queue.first_retry), ("warn", queue.warn or 0.0)):
        if seconds >= queue.give_up:
            yield Finding(("queue", name), f"{seconds:g}s must be less than queue.give_up, {queue.give_up:g}s")
    if config.bounce.hop is not None:
        yield from check_names(("bounce", "hop"), [config.bounce.hop], config.hop, "hop")
    elif _may_queue(config) and not any(_takes_reports(route) for route in config.route.values()):
        yield Finding(
            ("bounce",),
            "no route takes reports, which come from <> by no listener: they will be held; name a `hop` for them",
            is_warning=True,
        )
    yield from _check_role_mailbox(config)


def _may_queue(config: Config) -> bool:
    routes = config.route.values()
    asks = any(route.mode is Mode.QUEUE or route.on_trouble is HopTrouble.QUEUE for route in routes)
    return asks or len({route.hop for route in routes}) > 1


def _takes_reports(route: Route) -> bool:
    takes_null = (not route.sender or "*" in route.sender) and (not route.sender_domain or "" in route.sender_domain)
    return takes_null and not route.listener and not route.login


def _check_url(config: Config, world: World) -> Iterator[Finding]:
    queue = config.queue
    if queue.url is not None:
        name, url = "url", queue.url.get_secret_value()
    elif queue.url_file is not None:
        file, _ = attempt(world.read, queue.url_file)
        name, url = "url_file", secret_in(file) if file else ""
    else:
        return
    try:
        parse_database(url)
    except ValueError as error:
        if url:
            yield Finding(("queue", name), f"{error}. Without a url the queue is a file")
    if find_spec("asyncpg") is None:
        yield Finding(("queue", name), "PostgreSQL needs asyncpg: pip install 'relay[postgres]'")


def _check_role_mailbox(config: Config) -> Iterator[Finding]:
    settings = config.role_mailbox
    if settings.hop is not None:
        yield from check_names(("role_mailbox", "hop"), [settings.hop], config.hop, "hop")
        if settings.address is None:
            yield Finding(("role_mailbox", "hop"), "means nothing without `address`")
    for name in settings.names:
        if not name or "@" in name or name != name.lower():
            yield Finding(("role_mailbox", "names"), f'"{name}" is no local part in lower case, such as "postmaster"')
