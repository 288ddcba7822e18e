"""What only the whole configuration can be asked: may the relay start with it?

TRUSTS     that each value is well formed (`models`); not that they fit together.
FAILS      Findings, all there are: errors stop the start, warnings are told and lived with.
           Each sentence says what is wrong and names the key or the command that mends it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from relay.address import domain_key
from relay.config.explain import nearest
from relay.config.files import (
    Read,
    attempt,
    chain,
    dkim_key_fault,
    expiry,
    exposed,
    missing,
    pair_fault,
    private_key,
    read_file,
)
from relay.config.models import ROLE_KEYS, Config, Domain, Hop, HopKind, HopTls, Listener, ListenTls, Role
from relay.config.networks import Machine, is_internet, is_loopback, is_same, this_machine
from relay.config.shape import Key

GREETING_PATIENCE = 300.0  # seconds a client waits for its 220, RFC 5321 §4.5.3.2.1
FINAL_DOT = 600.0  # seconds, RFC 5321 §4.5.3.2.6

_NOT_FOR_INBOX = set(Hop.model_fields) - {"kind"}


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


def check(config: Config, world: World) -> tuple[Finding, ...]:
    """All that is wrong with `config`, errors and warnings, in its own order."""
    return (*_check_all(config, world),)


def _check_all(config: Config, world: World) -> Iterator[Finding]:
    yield from _check_hostname(config)
    for name, listener in config.listener.items():
        yield from _check_role(("listener", name), listener, config)
        yield from _check_listener_tls(("listener", name), listener, world)
    yield from _check_open_relay(config)
    yield from _check_ports(config)
    yield from _check_login(config, world)
    yield from _check_delay(config)
    yield from _check_domains(config, world)
    yield from _check_routes(config)
    for name, hop in config.hop.items():
        yield from _check_hop(("hop", name), hop, config, world)
    yield from _check_deadlines(config)


def _check_hostname(config: Config) -> Iterator[Finding]:
    binds = [listener.host for listener in config.listener.values()]
    hosts = [host for hop in config.hop.values() for host in hop.host]
    if "." not in config.hostname and not all(is_loopback(host) for host in binds + hosts):
        yield Finding(
            ("hostname",),
            f'"{config.hostname}" will do only while all listeners and hops are on loopback; '
            'write the name that others know us by, such as "relay.example.org"',
        )


def _check_role(key: Key, listener: Listener, config: Config) -> Iterator[Finding]:
    for field, roles in ROLE_KEYS.items():
        value = getattr(listener, field)
        if listener.role not in roles and value != Listener.model_fields[field].default:
            yield Finding((*key, field), f"means nothing in the role {listener.role}; it is for {' and '.join(roles)}")
    if listener.role is Role.SUBMISSION:
        if not listener.allow and config.login.file is None:
            yield Finding(
                key, "nobody may send here; give it `allow` and `senders`, or a login file: `file` in [login]"
            )
        if listener.allow and not listener.senders:
            yield Finding((*key, "allow"), 'needs `senders`, what these networks may send as, such as ["@example.org"]')
        if listener.senders and not listener.allow:
            yield Finding((*key, "senders"), "needs `allow`: they are the senders of the networks named there")
        if len(listener.allow) == 1 and listener.allow[0].num_addresses == 1:
            only = listener.allow[0].network_address
            if only.is_private and not only.is_loopback:
                yield Finding(
                    (*key, "allow"),
                    f"is one private address, {only}; if that is a container bridge's gateway, "
                    "everyone who reaches the published port comes from it",
                    is_warning=True,
                )
    if listener.role is Role.GATEWAY and not listener.domains:
        yield Finding(key, 'a gateway needs `domains`, those it takes mail for, such as ["example.org"]')
    if listener.role is Role.CAPTURE and not is_loopback(listener.host):
        yield Finding(
            (*key, "host"),
            f"{listener.host} can be reached from other machines, and a capture listener takes mail from everyone",
            is_warning=True,
        )


def _check_listener_tls(key: Key, listener: Listener, world: World) -> Iterator[Finding]:
    if listener.tls is ListenTls.NONE:
        for field in ("certificate", "key", "require_tls"):
            if getattr(listener, field):
                yield Finding((*key, field), 'is of no use without TLS; set `tls` to "starttls" or "implicit"')
    for field in ("certificate", "key"):
        if listener.tls is not ListenTls.NONE and getattr(listener, field) is None:
            yield Finding((*key, "tls"), f'"{listener.tls}" needs `{field}`, a PEM file')
    if listener.allow_plaintext_login and not is_loopback(listener.host):
        yield Finding(
            (*key, "allow_plaintext_login"),
            f"{listener.host} is not loopback: passwords would cross a network in clear; use TLS",
        )
    yield from _check_pair(key, listener.certificate, listener.key, world)


def _check_pair(key: Key, certificate: Path | None, private: Path | None, world: World) -> Iterator[Finding]:
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


def _check_open_relay(config: Config) -> Iterator[Finding]:
    text = "let a good part of the Internet send without a login, an open relay; name your own networks only"
    lists = {name: listener.allow for name, listener in config.listener.items() if listener.allow}
    found = [name for name, networks in lists.items() if is_internet(networks)]
    for name in found:
        yield Finding(("listener", name, "allow"), f"these networks {text}")
    if not found and is_internet(network for networks in lists.values() for network in networks):
        yield Finding(("listener",), f"the `allow` networks of {' and '.join(lists)} together {text}")


def _check_ports(config: Config) -> Iterator[Finding]:
    bound: list[tuple[Key, str, int]] = [
        (("listener", name), one.host, one.port) for name, one in config.listener.items()
    ]
    bound.append((("web",), config.web.host, config.web.port))
    machine = Machine(frozenset(), lambda address: True)
    for index, (key, host, port) in enumerate(bound):
        for other, other_host, other_port in bound[:index]:
            # Either may be the one that is bound to all addresses.
            pairs = ((host, other_host), (other_host, host))
            if port and port == other_port and any(is_same(*pair, "", machine) for pair in pairs):
                yield Finding((*key, "port"), f"{port} is taken by [{'.'.join(other)}]")


def _check_login(config: Config, world: World) -> Iterator[Finding]:
    if config.login.file is None:
        return
    file, fault = attempt(world.read, config.login.file)
    if file:
        fault = exposed(file, config.login.file, world.user)
    if fault:
        yield Finding(("login", "file"), fault)
    takes_logins = [one for one in config.listener.values() if one.role is Role.SUBMISSION]
    if not takes_logins:
        yield Finding(("login", "file"), "no listener of the role submission uses it", is_warning=True)
    for name, listener in config.listener.items():
        if listener in takes_logins and listener.tls is ListenTls.NONE and not listener.allow_plaintext_login:
            yield Finding(
                ("listener", name, "tls"),
                "nobody can log in here without TLS; set `tls`, or on loopback `allow_plaintext_login`",
                is_warning=bool(listener.allow),
            )


def _check_delay(config: Config) -> Iterator[Finding]:
    for name, seconds in config.delay.greeting.items():
        key = ("delay", "greeting", name)
        yield from _check_name(key, name, list(config.listener), "listener")
        if seconds + config.timeout.checks >= GREETING_PATIENCE:
            yield Finding(
                key,
                f"with timeout.checks ({config.timeout.checks:g}s) it must stay below {GREETING_PATIENCE:g}s, "
                "the time a client waits for its 220 (RFC 5321 §4.5.3.2.1)",
            )
    if config.delay.error >= GREETING_PATIENCE:
        yield Finding(("delay", "error"), f"must be less than {GREETING_PATIENCE:g}s, the patience of clients")


def _check_domains(config: Config, world: World) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name, domain in config.domain.items():
        key = ("domain", name)
        first = seen.setdefault(domain_key(domain.name), name)
        if first != name:
            yield Finding((*key, "name"), f"{domain.name} is already the name of [domain.{first}]")
        yield from _check_keys(key, domain, world)


def _check_keys(table: Key, domain: Domain, world: World) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name, key in domain.key.items():
        place = (*table, "key", name)
        first = seen.setdefault(domain_key(key.selector), name)
        if first != name:
            yield Finding(
                (*place, "selector"), f"{key.selector} is already the selector of [{'.'.join(table)}.key.{first}]"
            )
        file, fault = attempt(world.read, key.file)
        if file:
            unfit = dkim_key_fault(file.content, key.algorithm)
            fault = exposed(file, key.file, world.user) or (unfit and f"{key.file}: {unfit}")
        elif fault == missing(key.file):
            fault = "" if key.generate else f"{fault}; make it with `relay keys new`"
        if fault:
            yield Finding((*place, "file"), fault)


def _check_routes(config: Config) -> Iterator[Finding]:
    captures = [name for name, listener in config.listener.items() if listener.role is Role.CAPTURE]
    for name, route in config.route.items():
        key = ("route", name)
        yield from _check_name((*key, "hop"), route.hop, list(config.hop), "hop")
        for wanted in route.listener:
            yield from _check_name((*key, "listener"), wanted, list(config.listener), "listener")
            if wanted in captures:
                yield Finding((*key, "listener"), f"{wanted} captures: its mail goes to the inbox, by no route")
    for name, listener in config.listener.items():
        if listener.role is Role.CAPTURE:
            continue
        routes = [route for route in config.route.values() if not route.listener or name in route.listener]
        if not routes:
            yield Finding(("listener", name), "no route takes its mail; add a [route.NAME] with `hop`")
            continue
        routed = {
            domain_key(domain) for route in routes if not route.sender_domain for domain in route.recipient_domain
        }
        if any(not route.sender_domain and not route.recipient_domain for route in routes):
            continue
        left = [domain for domain in listener.domains if domain_key(domain) not in routed]
        if left or not listener.domains:
            what = ", ".join(left) or "some recipients"
            yield Finding(("listener", name), f"no route takes mail for {what}; they get 550", is_warning=True)


def _check_name(key: Key, name: str, names: list[str], what: str) -> Iterator[Finding]:
    if name not in names:
        near = nearest(name, names)
        meant = f"; did you mean {near}?" if near else ""
        yield Finding(key, f"there is no [{what}.{name}]{meant}")


def _check_hop(key: Key, hop: Hop, config: Config, world: World) -> Iterator[Finding]:
    if hop.kind is HopKind.INBOX:
        for field in Hop.model_fields:
            if field in _NOT_FOR_INBOX and getattr(hop, field) != Hop.model_fields[field].default:
                yield Finding((*key, field), 'means nothing for the inbox; take it out, or `kind = "inbox"`')
        return
    if not hop.host:
        yield Finding(key, 'a hop needs `host`, such as ["smtp.example.net"], or `kind = "inbox"`')
    for host in hop.host:
        for name, listener in config.listener.items():
            if listener.port == hop.port and is_same(listener.host, host, config.hostname, world.machine):
                yield Finding(
                    (*key, "host"), f"{host} port {hop.port} is our own [listener.{name}]: mail would go in circles"
                )
    yield from _check_hop_tls(key, hop, world)
    yield from _check_hop_login(key, hop, world)


def _check_hop_tls(key: Key, hop: Hop, world: World) -> Iterator[Finding]:
    if hop.ca is not None:
        if hop.tls in (HopTls.NONE, HopTls.OPPORTUNISTIC):
            yield Finding((*key, "ca"), f'is of no use with tls = "{hop.tls}"; set "required" or "implicit"')
        file, fault = attempt(world.read, hop.ca)
        try:
            if file:
                chain(file.content)
        except ValueError as error:
            fault = f"{hop.ca}: {error}"
        if fault:
            yield Finding((*key, "ca"), fault)
    if hop.tls is HopTls.NONE and hop.certificate:
        yield Finding((*key, "certificate"), 'is of no use with tls = "none"')
    if (hop.certificate is None) != (hop.key is None):
        yield Finding(key, "a client certificate needs both `certificate` and `key`")
    yield from _check_pair(key, hop.certificate, hop.key, world)


def _check_hop_login(key: Key, hop: Hop, world: World) -> Iterator[Finding]:
    if hop.password is not None and hop.password_file is not None:
        yield Finding((*key, "password"), "there is a `password_file` too; keep one of them")
    has_password = hop.password is not None or hop.password_file is not None
    if hop.username is not None and not has_password:
        yield Finding((*key, "username"), "needs a password: `password_file`, or `password` by the environment")
    if hop.username is None and has_password:
        yield Finding(key, "a password needs `username`")
    if hop.username is not None and hop.tls in (HopTls.NONE, HopTls.OPPORTUNISTIC):
        away = [host for host in hop.host if not is_loopback(host)]
        if away:
            yield Finding(
                (*key, "tls"),
                f'"{hop.tls}" could send the password to {away[0]} in clear; set "required" or "implicit"',
            )
    secret = hop.password.get_secret_value() if hop.password is not None else None
    if hop.password_file is not None:
        file, fault = attempt(world.read, hop.password_file)
        if file:
            fault = exposed(file, hop.password_file, world.user)
            secret = file.content.decode("utf-8", "replace").rstrip("\r\n")
        if fault:
            yield Finding((*key, "password_file"), fault)
    field = "password" if hop.password_file is None else "password_file"
    for name, value in (("username", hop.username), (field, secret)):
        # RFC 4616 §2: NUL parts the fields of PLAIN, so none may stand in one; nor has a line's end a use.
        if value is not None and (not value or not value.isprintable()):
            yield Finding((*key, name), "is empty or holds characters that no login can have")


def _check_deadlines(config: Config) -> Iterator[Finding]:
    timeout = config.timeout
    for inner, outer in (("dns", "checks"), ("checks", "client_patience")):
        if getattr(timeout, inner) >= getattr(timeout, outer):
            yield Finding(
                ("timeout", inner),
                f"{getattr(timeout, inner):g}s must be less than timeout.{outer}, {getattr(timeout, outer):g}s",
            )
    if timeout.final_dot < FINAL_DOT:
        yield Finding(
            ("timeout", "final_dot"),
            f"{timeout.final_dot:g}s is less than the {FINAL_DOT:g}s of RFC 5321 §4.5.3.2.6; "
            "a slow next hop's mail may arrive twice",
            is_warning=True,
        )
