"""What only the whole configuration can be asked: may the relay start with it?

TRUSTS     that each value is well formed (`models`); not that they fit together.
FAILS      Findings, all there are: errors stop the start, warnings are told and lived with.
           Each sentence says what is wrong and names the key or the command that mends it.
"""

from __future__ import annotations

from collections.abc import Iterator

from relay.config.domain_checks import check_domains, check_masquerades
from relay.config.files import attempt, exposed
from relay.config.finding import Finding, World, check_names
from relay.config.hop import HopKind
from relay.config.hop_checks import check_hops
from relay.config.listener_checks import check_listeners
from relay.config.models import Config, ListenTls, RatePer, Role
from relay.config.networks import Machine, is_loopback, is_same
from relay.config.policy_checks import check_policies
from relay.config.queue_checks import check_queue
from relay.config.route_checks import check_routes
from relay.config.shape import Key
from relay.config.share import CAN_SHARE, count_of

GREETING_PATIENCE = 300.0  # seconds a client waits for its 220, RFC 5321 §4.5.3.2.1
FINAL_DOT = 600.0  # seconds, RFC 5321 §4.5.3.2.6

# What stands for what under load.
_CALM = {"command": "timeout", "data_idle": "timeout", "errors": "limit", "junk": "limit", "login_failures": "limit"}


def check(config: Config, world: World) -> tuple[Finding, ...]:
    """All that is wrong with `config`, errors and warnings, in its own order."""
    return (*_check_all(config, world),)


def _check_all(config: Config, world: World) -> Iterator[Finding]:
    yield from _check_hostname(config)
    yield from _check_workers(config)
    yield from check_listeners(config, world)
    yield from _check_ports(config)
    yield from _check_login(config, world)
    yield from _check_delay(config)
    yield from _check_rates(config)
    yield from _check_stress(config)
    yield from _check_verify(config)
    yield from check_policies(config)
    yield from check_masquerades(config)
    yield from check_domains(config, world)
    yield from check_routes(config, world)
    yield from check_hops(config, world)
    yield from check_queue(config, world)
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


def _check_workers(config: Config) -> Iterator[Finding]:
    count = count_of(config.workers)
    if count > 1 and not CAN_SHARE:
        yield Finding(("workers",), "only Linux can have more than one")
    shared: list[tuple[Key, int]] = [
        (("hop", name, "connections"), hop.connections)
        for name, hop in config.hop.items()
        if hop.kind is not HopKind.INBOX
    ]
    if config.login.file is not None:
        shared.append((("login", "hashes_at_once"), config.login.hashes_at_once))
    for key, number in shared:
        if number < count:
            yield Finding(key, f"{number} will be {count}: each of {count} workers has at least 1", is_warning=True)


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
        yield from check_names(key, [name], config.listener, "listener")
        if seconds + config.timeout.checks >= GREETING_PATIENCE:
            yield Finding(
                key,
                f"with timeout.checks ({config.timeout.checks:g}s) it must stay below {GREETING_PATIENCE:g}s, "
                "the time a client waits for its 220 (RFC 5321 §4.5.3.2.1)",
            )
    if config.delay.error >= GREETING_PATIENCE:
        yield Finding(("delay", "error"), f"must be less than {GREETING_PATIENCE:g}s, the patience of clients")


def _check_rates(config: Config) -> Iterator[Finding]:
    for name, rate in config.rate.items():
        key = ("rate", name)
        yield from check_names((*key, "listener"), rate.listener, config.listener, "listener")
        if not rate.messages and not rate.recipients:
            yield Finding(key, "limits nothing; set `messages`, `recipients` or both")
        if rate.per is RatePer.LOGIN:
            counted = rate.listener or tuple(config.listener)
            roles = {config.listener[one].role for one in counted if one in config.listener}
            if config.login.file is None:
                yield Finding((*key, "per"), "nobody can log in without a login file: `file` in [login]")
            elif Role.SUBMISSION not in roles:
                yield Finding((*key, "per"), f"nobody logs in on {' or '.join(counted)}; count per ip or sender")


def _check_stress(config: Config) -> Iterator[Finding]:
    for name, table in _CALM.items():
        harsh, calm = getattr(config.stress, name), getattr(getattr(config, table), name)
        # A default that is milder is passed over: whoever set `limit.errors = 2` need not know of it.
        if name in config.stress.model_fields_set and harsh > calm:
            yield Finding(
                ("stress", name), f"{harsh:g} is milder than {table}.{name}, {calm:g}; under load it cannot be"
            )


def _check_verify(config: Config) -> Iterator[Finding]:
    for name in ("positive", "negative"):
        refresh, lifetime = getattr(config.verify, f"{name}_refresh"), getattr(config.verify, name)
        if refresh > lifetime:
            yield Finding(
                ("verify", f"{name}_refresh"),
                f"{refresh:g}s is more than verify.{name}, {lifetime:g}s: it is gone by then",
            )


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
