"""Listeners: roles, networks, proxies, recipients, TLS.

STANDARDS  RFC 5321 §3.6.2 and §7.9 (no relay for strangers), PROXY protocol §2 (only from those we know).
TRUSTS     that each value is well formed.
FAILS      Findings.
"""

from __future__ import annotations

from collections.abc import Iterator

from relay.config.files import attempt, chain, has_names
from relay.config.finding import Finding, World, check_pair
from relay.config.models import ROLE_KEYS, Config, Listener, ListenTls, Role
from relay.config.networks import is_internet, is_loopback
from relay.config.shape import Key


def check_listeners(config: Config, world: World) -> Iterator[Finding]:
    for name, listener in config.listener.items():
        key = ("listener", name)
        yield from _check_role(key, listener, config)
        yield from _check_proxies(key, listener)
        yield from _check_recipients(key, listener, world)
        yield from _check_tls(key, listener, world)
    yield from _check_open_relay(config)


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


def _check_proxies(key: Key, listener: Listener) -> Iterator[Finding]:
    if not listener.proxy_from:
        return
    if is_internet(listener.proxy_from):
        yield Finding(
            (*key, "proxy_from"),
            "a good part of the Internet could say here who the client is; name your own load balancers only",
        )
    elif is_loopback(listener.host) and not any(network.is_loopback for network in listener.proxy_from):
        yield Finding((*key, "proxy_from"), f"nobody else may connect, and none of these can reach {listener.host}")


def _check_recipients(key: Key, listener: Listener, world: World) -> Iterator[Finding]:
    if listener.role is Role.GATEWAY and listener.recipients is not None:
        _, fault = attempt(world.read, listener.recipients)
        if fault:
            yield Finding((*key, "recipients"), fault)


def _check_tls(key: Key, listener: Listener, world: World) -> Iterator[Finding]:
    if listener.tls is ListenTls.NONE:
        for field in ("certificate", "key", "sni", "require_tls"):
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
    yield from check_pair(key, listener.certificate, listener.key, world)
    for name, further in listener.sni.items():
        place = (*key, "sni", name)
        found = [*check_pair(place, further.certificate, further.key, world)]
        yield from found
        file, _ = attempt(world.read, further.certificate)
        if file and not any(one.key[-1] == "certificate" for one in found) and not has_names(chain(file.content)[0]):
            yield Finding((*place, "certificate"), f"{further.certificate} names no host, so no client can ask for it")


def _check_open_relay(config: Config) -> Iterator[Finding]:
    text = "let a good part of the Internet send without a login, an open relay; name your own networks only"
    lists = {name: listener.allow for name, listener in config.listener.items() if listener.allow}
    found = [name for name, networks in lists.items() if is_internet(networks)]
    for name in found:
        yield Finding(("listener", name, "allow"), f"these networks {text}")
    if not found and is_internet(network for networks in lists.values() for network in networks):
        yield Finding(("listener",), f"the `allow` networks of {' and '.join(lists)} together {text}")
