"""Next hops: hosts, TLS, and the logins we have there.

STANDARDS  RFC 2033 §5 (LMTP's port), RFC 4616 §2 (PLAIN), RFC 6749 §4.4 and §6 (tokens), RFC 6750 §5.3 (TLS for them).
TRUSTS     that each value is well formed; nothing in a file.
FAILS      Findings. No secret is in their text.
"""

from __future__ import annotations

from collections.abc import Iterator

from relay.config.files import attempt, chain
from relay.config.finding import Finding, World, check_pair, check_secret, check_text
from relay.config.hop import Hop, HopKind, HopTls, Identify, OAuth2
from relay.config.models import Config
from relay.config.networks import is_loopback, is_public, is_same
from relay.config.shape import Key

_NOT_FOR_INBOX = set(Hop.model_fields) - {"kind"}


def check_hops(config: Config, world: World) -> Iterator[Finding]:
    for name, hop in config.hop.items():
        yield from _check_hop(("hop", name), hop, config, world)


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
    if hop.kind is HopKind.LMTP and hop.port == 25:
        yield Finding((*key, "port"), "LMTP must not be on port 25 (RFC 2033 §5); 24 is usual")
    strangers = [host for host in hop.host if is_public(host)]
    if hop.identify is not Identify.NONE and strangers:
        yield Finding(
            (*key, "identify"),
            f"{strangers[0]} is on the Internet; who the clients are is for servers of your own",
            is_warning=True,
        )
    if hop.identify is Identify.XCLIENT and hop.username is not None:
        # The session begins anew, and its 530 to MAIL would be the mail's.
        yield Finding((*key, "identify"), "XCLIENT makes the server forget the login; trust our address there instead")
    yield from _check_tls(key, hop, world)
    yield from _check_login(key, hop, world)


def _check_tls(key: Key, hop: Hop, world: World) -> Iterator[Finding]:
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
    yield from check_pair(key, hop.certificate, hop.key, world)


def _check_login(key: Key, hop: Hop, world: World) -> Iterator[Finding]:
    has_password = hop.password is not None or hop.password_file is not None
    if hop.oauth2 is not None and has_password:
        yield Finding((*key, "oauth2"), "there is a password too; keep one of them")
    if hop.username is not None and not has_password and hop.oauth2 is None:
        yield Finding(
            (*key, "username"), "needs a password: `password_file`, or `password` by the environment; or `oauth2`"
        )
    if hop.username is None and (has_password or hop.oauth2 is not None):
        yield Finding(key, f"{'a password' if has_password else '`oauth2`'} needs `username`")
    if (hop.username is not None or hop.oauth2 is not None) and hop.tls in (HopTls.NONE, HopTls.OPPORTUNISTIC):
        away = [host for host in hop.host if not is_loopback(host)]
        if away:
            what = "password" if hop.oauth2 is None else "token"
            yield Finding(
                (*key, "tls"),
                f'"{hop.tls}" could send the {what} to {away[0]} in clear; set "required" or "implicit"',
            )
    yield from check_text((*key, "username"), hop.username)
    yield from check_secret(key, hop, "password", world)
    if hop.oauth2 is not None:
        yield from _check_oauth2((*key, "oauth2"), hop.oauth2, world)


def _check_oauth2(key: Key, oauth2: OAuth2, world: World) -> Iterator[Finding]:
    yield from check_text((*key, "client_id"), oauth2.client_id)
    for name in ("client_secret", "refresh_token"):
        yield from check_secret(key, oauth2, name, world)
    has_secret = oauth2.client_secret is not None or oauth2.client_secret_file is not None
    # RFC 6749 §2.1: a public client has a refresh token and no secret.
    if not has_secret and oauth2.refresh_token is None and oauth2.refresh_token_file is None:
        yield Finding(key, "needs `client_secret_file` for client credentials, or `refresh_token_file`")
