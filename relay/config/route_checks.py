"""Routes: what they name is there, and all mail has one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from relay.address import domain_key
from relay.config.explain import nearest
from relay.config.files import attempt, login_names
from relay.config.finding import Finding, World, check_names
from relay.config.hop import HopKind
from relay.config.models import Config, Listener, Role, Route
from relay.config.shape import Key


def check_routes(config: Config, world: World) -> Iterator[Finding]:
    captures = [name for name, listener in config.listener.items() if listener.role is Role.CAPTURE]
    for name, route in config.route.items():
        key = ("route", name)
        yield from check_names((*key, "hop"), [route.hop], config.hop, "hop")
        yield from check_names((*key, "listener"), route.listener, config.listener, "listener")
        yield from _check_logins((*key, "login"), route, config, world)
        for wanted in route.listener:
            if wanted in captures:
                yield Finding((*key, "listener"), f"{wanted} captures: its mail goes to the inbox, by no route")
    for name, listener in config.listener.items():
        if listener.role is Role.CAPTURE:
            continue
        routes = [route for route in config.route.values() if not route.listener or name in route.listener]
        if not routes:
            yield Finding(("listener", name), "no route takes its mail; add a [route.NAME] with `hop`")
            continue
        yield from _check_asking(("listener", name), listener, routes, config)
        from_anyone = [route for route in routes if not (route.login or route.sender or route.sender_domain)]
        if any(not route.recipient_domain for route in from_anyone):
            continue
        routed = {domain_key(domain) for route in from_anyone for domain in route.recipient_domain}
        left = [domain for domain in listener.domains if domain_key(domain) not in routed]
        if left or not listener.domains:
            what = ", ".join(left) or "some recipients"
            yield Finding(("listener", name), f"no route takes mail for {what}; they get 550", is_warning=True)


def _check_logins(key: Key, route: Route, config: Config, world: World) -> Iterator[Finding]:
    if not route.login:
        return
    if config.login.file is None:
        yield Finding(key, "nobody can log in without a login file: `file` in [login]")
        return
    roles = {config.listener[name].role for name in route.listener if name in config.listener}
    if roles and Role.SUBMISSION not in roles:
        yield Finding(key, f"nobody logs in on {' or '.join(route.listener)}; take out `login` or `listener`")
    file, _ = attempt(world.read, config.login.file)
    known = login_names(file.content) if file else []
    for name in route.login:
        if file and name not in known:
            near = nearest(name, known)
            # No error: taking a stolen login out of the file must not keep a reload from taking it out.
            yield Finding(
                key,
                f"there is no {name} in {config.login.file}" + (f"; did you mean {near}?" if near else ""),
                is_warning=True,
            )


def _check_asking(key: Key, listener: Listener, routes: Iterable[Route], config: Config) -> Iterator[Finding]:
    hops = [config.hop[route.hop] for route in routes if route.hop in config.hop]
    if listener.verify_recipients and hops and all(hop.kind is HopKind.INBOX for hop in hops):
        yield Finding((*key, "verify_recipients"), "its mail goes to the inbox, which knows no recipients to ask about")
