"""What only the whole configuration can be asked, a row for each question."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.configuration import (
    CAPTURE,
    DOMAIN,
    GATEWAY,
    HOP,
    KEY,
    LOGIN,
    OAUTH2,
    OWN_ADDRESS,
    RATE,
    SUBMISSION,
    Overrides,
    has,
    problems,
)

INBOX: Overrides = {f"{HOP}.host": [], f"{HOP}.kind": "inbox"}
SNI: Overrides = {f"{SUBMISSION}.sni.other.certificate": "other.pem", f"{SUBMISSION}.sni.other.key": "other.key"}
XCLIENT: Overrides = {f"{HOP}.identify": "xclient"}
REWRITE: Overrides = {"masquerade.m.match": ["@a.example"], "masquerade.m.address": "@example.org"}
SECOND: Overrides = {"masquerade.n.match": ["@b.example"], "masquerade.n.address": "@example.org"}

ERRORS: list[tuple[Overrides, str, str]] = [
    # the name
    ({"hostname": "localhost"}, "hostname", "on loopback"),
    ({"hostname": "relay"}, "hostname", "on loopback"),
    ({"hostname": "relay", f"{GATEWAY}.host": "127.0.0.1"}, "hostname", "on loopback"),  # the hop is not
    # roles
    ({f"{SUBMISSION}.allow": [], f"{SUBMISSION}.senders": []}, SUBMISSION, "nobody may send"),
    ({f"{SUBMISSION}.senders": []}, f"{SUBMISSION}.allow", "needs `senders`"),
    ({f"{SUBMISSION}.allow": []}, f"{SUBMISSION}.senders", "needs `allow`"),
    ({f"{GATEWAY}.domains": []}, GATEWAY, "needs `domains`"),
    ({f"{GATEWAY}.senders": ["*"]}, f"{GATEWAY}.senders", "means nothing in the role gateway"),
    ({f"{GATEWAY}.allow": ["10.0.0.0/8"]}, f"{GATEWAY}.allow", "means nothing in the role gateway"),
    ({f"{GATEWAY}.bare_newline": "normalize"}, f"{GATEWAY}.bare_newline", "means nothing"),
    ({f"{GATEWAY}.long_lines": "fold"}, f"{GATEWAY}.long_lines", "means nothing"),
    ({f"{SUBMISSION}.domains": ["example.org"]}, f"{SUBMISSION}.domains", "it is for gateway"),
    ({f"{CAPTURE}.domains": ["example.org"]}, f"{CAPTURE}.domains", "it is for gateway"),
    # the open relay
    ({f"{SUBMISSION}.allow": ["0.0.0.0/0"]}, f"{SUBMISSION}.allow", "open relay"),
    ({f"{SUBMISSION}.allow": ["0.0.0.0/1", "128.0.0.0/1"]}, f"{SUBMISSION}.allow", "open relay"),
    ({f"{SUBMISSION}.allow": ["::/0"]}, f"{SUBMISSION}.allow", "open relay"),
    (
        {
            f"{SUBMISSION}.allow": ["16.0.0.0/8"],
            "listener.second.role": "submission",
            "listener.second.port": 2527,
            "listener.second.allow": ["17.0.0.0/8"],
            "listener.second.senders": ["*"],
        },
        "listener",
        "together",
    ),
    # ports
    ({f"{SUBMISSION}.port": 1025}, f"{CAPTURE}.port", "taken by [listener.submission]"),
    ({f"{SUBMISSION}.port": 2526}, f"{GATEWAY}.port", "taken by [listener.submission]"),  # 127.0.0.1 and 0.0.0.0
    ({"web.port": 2526}, "web.port", "taken by [listener.gateway]"),
    # TLS towards clients
    ({f"{SUBMISSION}.require_tls": True}, f"{SUBMISSION}.require_tls", "without TLS"),
    ({f"{SUBMISSION}.certificate": "x.pem"}, f"{SUBMISSION}.certificate", "without TLS"),
    ({f"{SUBMISSION}.tls": "starttls"}, f"{SUBMISSION}.tls", "needs `certificate`"),
    ({f"{SUBMISSION}.tls": "implicit"}, f"{SUBMISSION}.tls", "needs `key`"),
    (
        {f"{SUBMISSION}.host": "0.0.0.0", f"{SUBMISSION}.allow_plaintext_login": True},
        f"{SUBMISSION}.allow_plaintext_login",
        "in clear",
    ),
    # routes
    ({"route.all.hop": "mailbix"}, "route.all.hop", "did you mean mailbox?"),
    ({"route.all.listener": ["gatevay"]}, "route.all.listener", "did you mean gateway?"),
    ({"route.all.listener": ["capture", "gateway", "submission"]}, "route.all.listener", "capture captures"),
    ({"route.all.listener": ["gateway"]}, SUBMISSION, "no route takes its mail"),
    # next hops
    ({f"{HOP}.host": []}, HOP, "needs `host`"),
    ({f"{HOP}.host": ["127.0.0.1"], f"{HOP}.port": 2525}, f"{HOP}.host", "our own [listener.submission]"),
    ({f"{HOP}.host": ["localhost"], f"{HOP}.port": 2525}, f"{HOP}.host", "our own [listener.submission]"),
    ({f"{HOP}.host": ["::1"], f"{HOP}.port": 2525, f"{SUBMISSION}.host": "::"}, f"{HOP}.host", "our own"),
    ({f"{HOP}.host": ["relay.example.org"], f"{HOP}.port": 2526}, f"{HOP}.host", "our own [listener.gateway]"),
    ({f"{HOP}.host": [str(OWN_ADDRESS)], f"{HOP}.port": 2526}, f"{HOP}.host", "our own [listener.gateway]"),
    ({f"{HOP}.host": ["thishost"], f"{HOP}.port": 2526}, f"{HOP}.host", "our own [listener.gateway]"),
    ({**INBOX, f"{HOP}.port": 587}, f"{HOP}.port", "means nothing for the inbox"),
    ({f"{HOP}.kind": "inbox"}, f"{HOP}.host", "means nothing for the inbox"),
    ({**LOGIN, f"{HOP}.tls": "opportunistic"}, f"{HOP}.tls", "in clear"),
    ({**LOGIN, f"{HOP}.tls": "none"}, f"{HOP}.tls", "in clear"),
    ({**LOGIN, f"{HOP}.tls": "none", f"{HOP}.host": ["127.0.0.1", "192.0.2.1"]}, f"{HOP}.tls", "192.0.2.1"),
    ({f"{HOP}.username": "relay", f"{HOP}.tls": "required"}, f"{HOP}.username", "needs a password"),
    ({f"{HOP}.password": "secret"}, HOP, "needs `username`"),
    ({**LOGIN, f"{HOP}.password": ""}, f"{HOP}.password", "is empty"),
    ({**LOGIN, f"{HOP}.username": "a\x00b"}, f"{HOP}.username", "characters that no login can have"),  # RFC 4616 §2
    ({**LOGIN, f"{HOP}.password": "a\r\nb"}, f"{HOP}.password", "characters that no login can have"),
    ({**LOGIN, f"{HOP}.password_file": "none"}, f"{HOP}.password_file", "does not exist"),
    ({f"{HOP}.ca": "ca.pem"}, f"{HOP}.ca", "of no use"),
    ({f"{HOP}.ca": "none", f"{HOP}.tls": "required"}, f"{HOP}.ca", "does not exist"),
    ({f"{HOP}.certificate": "c.pem"}, HOP, "both `certificate` and `key`"),
    # files
    ({"login.file": "none"}, "login.file", "does not exist"),
    (DOMAIN, f"{KEY}.file", "relay keys new"),
    # domains
    (
        {
            **DOMAIN,
            "domain.e.name": "EXAMPLE.org",
            "domain.e.key.k.selector": "t",
            "domain.e.key.k.file": "e.pem",
        },
        "domain.e.name",
        "already the name of [domain.d]",
    ),
    (
        {**DOMAIN, "domain.d.key.l.selector": "S", "domain.d.key.l.file": "l.pem"},
        "domain.d.key.l.selector",
        "already the selector of [domain.d.key.k]",
    ),
    # load balancers
    ({f"{GATEWAY}.proxy_from": ["0.0.0.0/0"]}, f"{GATEWAY}.proxy_from", "a good part of the Internet"),
    ({f"{GATEWAY}.proxy_from": ["0.0.0.0/1", "128.0.0.0/1"]}, f"{GATEWAY}.proxy_from", "a good part of the Internet"),
    ({f"{GATEWAY}.proxy_from": ["::/0"]}, f"{GATEWAY}.proxy_from", "a good part of the Internet"),
    ({f"{SUBMISSION}.proxy_from": ["192.0.2.7"]}, f"{SUBMISSION}.proxy_from", "none of these can reach 127.0.0.1"),
    # further certificates
    ({**SNI}, f"{SUBMISSION}.sni", "without TLS"),
    ({**SNI, f"{SUBMISSION}.tls": "starttls"}, f"{SUBMISSION}.sni.other.certificate", "does not exist"),
    ({**SNI, f"{SUBMISSION}.tls": "starttls"}, f"{SUBMISSION}.sni.other.key", "does not exist"),
    ({**SNI, f"{SUBMISSION}.tls": "starttls"}, f"{SUBMISSION}.tls", "needs `certificate`"),
    # recipients
    ({f"{GATEWAY}.recipients": "none"}, f"{GATEWAY}.recipients", "does not exist"),
    ({f"{GATEWAY}.recipients": "."}, f"{GATEWAY}.recipients", "not a regular file"),
    ({f"{SUBMISSION}.recipients": "none"}, f"{SUBMISSION}.recipients", "it is for gateway"),
    ({f"{SUBMISSION}.verify_recipients": True}, f"{SUBMISSION}.verify_recipients", "it is for gateway"),
    ({**INBOX, f"{GATEWAY}.verify_recipients": True}, f"{GATEWAY}.verify_recipients", "goes to the inbox"),
    ({"verify.positive_refresh": "32 d"}, "verify.positive_refresh", "more than verify.positive"),
    ({"verify.positive": "1 d"}, "verify.positive_refresh", "more than verify.positive"),
    ({"verify.negative_refresh": "4 d"}, "verify.negative_refresh", "more than verify.negative"),
    # rates
    ({**RATE, "rate.r.listener": ["gatevay"]}, "rate.r.listener", "did you mean gateway?"),
    ({"rate.r.per": "ip"}, "rate.r", "limits nothing"),
    ({**RATE, "rate.r.per": "login"}, "rate.r.per", "without a login file"),
    # load
    ({"stress.command": "301s"}, "stress.command", "milder than timeout.command"),
    ({"stress.data_idle": "181s"}, "stress.data_idle", "milder than timeout.data_idle"),
    ({"stress.errors": 11}, "stress.errors", "milder than limit.errors"),
    ({"stress.junk": 101}, "stress.junk", "milder than limit.junk"),
    ({"stress.login_failures": 4}, "stress.login_failures", "milder than limit.login_failures"),
    ({"limit.errors": 2, "stress.errors": 3}, "stress.errors", "milder than limit.errors"),
    # rewritten senders
    ({**REWRITE, "masquerade.m.listener": ["submision"]}, "masquerade.m.listener", "did you mean submission?"),
    ({**REWRITE, "masquerade.m.listener": ["gateway"]}, "masquerade.m.listener", "takes no submissions"),
    ({**REWRITE, "masquerade.m.match": ["@a.example", "ann@A.example"]}, "masquerade.m.match", "what stands before it"),
    ({**REWRITE, **SECOND, "masquerade.n.match": ["@A.example"]}, "masquerade.n.match", "[masquerade.m] takes it"),
    ({**REWRITE, **SECOND, "masquerade.n.match": ["ann@a.example"]}, "masquerade.n.match", "[masquerade.m] takes it"),
    (
        {**REWRITE, **SECOND, "masquerade.m.match": ["*"], "masquerade.n.listener": ["submission"]},
        "masquerade.n.match",
        "@b.example never counts",
    ),
    # routes by login
    ({"route.all.login": ["ann"]}, "route.all.login", "without a login file"),
    # LMTP, RFC 2033 §5
    ({f"{HOP}.kind": "lmtp"}, f"{HOP}.port", "LMTP must not be on port 25"),
    ({f"{HOP}.kind": "lmtp", f"{HOP}.port": 25}, f"{HOP}.port", "LMTP must not be on port 25"),
    ({**INBOX, f"{HOP}.identify": "xclient"}, f"{HOP}.identify", "means nothing for the inbox"),
    ({**INBOX, f"{HOP}.identify": "proxy-v2"}, f"{HOP}.identify", "means nothing for the inbox"),
    (
        {**XCLIENT, f"{HOP}.username": "relay", f"{HOP}.password": "secret", f"{HOP}.tls": "required"},
        f"{HOP}.identify",
        "forget the login",
    ),
    # tokens
    ({**OAUTH2, f"{HOP}.kind": "inbox", f"{HOP}.host": []}, f"{HOP}.oauth2", "means nothing for the inbox"),
    ({**OAUTH2, f"{HOP}.tls": "opportunistic"}, f"{HOP}.tls", "send the token to mail.example.net in clear"),
    ({**OAUTH2, f"{HOP}.tls": "none"}, f"{HOP}.tls", "send the token to mail.example.net in clear"),
    ({**OAUTH2, f"{HOP}.password": "secret"}, f"{HOP}.oauth2", "keep one of them"),
    ({name: OAUTH2[name] for name in OAUTH2 if "username" not in name}, HOP, "`oauth2` needs `username`"),
    ({name: OAUTH2[name] for name in OAUTH2 if "secret" not in name}, f"{HOP}.oauth2", "needs `client_secret_file`"),
    ({**OAUTH2, f"{HOP}.oauth2.client_secret_file": "x"}, f"{HOP}.oauth2.client_secret", "keep one of them"),
    ({**OAUTH2, f"{HOP}.oauth2.refresh_token_file": "x"}, f"{HOP}.oauth2.refresh_token_file", "does not exist"),
    ({**OAUTH2, f"{HOP}.oauth2.client_secret": ""}, f"{HOP}.oauth2.client_secret", "is empty"),
    ({**OAUTH2, f"{HOP}.oauth2.client_id": "a\r\nb"}, f"{HOP}.oauth2.client_id", "characters that no login can have"),
    # policies
    ({"policy.seal": "nobody"}, "policy.seal", "there is no [domain.nobody]"),
    ({"policy.quarantine_hop": "quarantine"}, "policy.quarantine_hop", "there is no [hop.quarantine]"),
    ({"policy.quarantine_hop": "mailbux"}, "policy.quarantine_hop", "did you mean mailbox?"),
    ({"policy.forwarder.list.name": []}, "policy.forwarder.list", "set `name`, `network` or `dkim`"),
    ({"shadow.forwarder.list.dkim": []}, "shadow.forwarder.list", "set `name`, `network` or `dkim`"),
    # delays and deadlines
    ({"delay.greeting.gatevay": "2s"}, "delay.greeting.gatevay", "did you mean gateway?"),
    ({"delay.greeting.gateway": "280s"}, "delay.greeting.gateway", "§4.5.3.2.1"),
    ({"delay.error": "5 min"}, "delay.error", "patience"),
    ({"timeout.dns": "20s"}, "timeout.dns", "less than timeout.checks"),
    ({"timeout.checks": "5 min"}, "timeout.checks", "less than timeout.client_patience"),
    ({"timeout.client_patience": "20s"}, "timeout.checks", "less than timeout.client_patience"),
    # the queue
    ({"queue.url": "mysql://a@b/c"}, "queue.url", "postgresql://user@host/database"),
    ({"queue.url": "postgresql://a@b"}, "queue.url", "postgresql://user@host/database"),
    ({"queue.url": "postgresql://a@b:x/c"}, "queue.url", "postgresql://user@host/database"),
    ({"queue.url": "postgresql://a@b/c", "queue.url_file": "u"}, "queue.url", "keep one of them"),
    ({"queue.url_file": "nowhere"}, "queue.url_file", "does not exist"),
    ({"queue.first_retry": "2 h"}, "queue.first_retry", "more than queue.max_retry"),
    ({"queue.warn": "5 d"}, "queue.warn", "less than queue.give_up"),
    ({"queue.give_up": "1 min"}, "queue.first_retry", "less than queue.give_up"),
    ({"bounce.hop": "nowhere"}, "bounce.hop", "there is no [hop.nowhere]"),
    ({"role_mailbox.address": "ops@example.org", "role_mailbox.hop": "no"}, "role_mailbox.hop", "there is no [hop.no]"),
    ({"role_mailbox.hop": "mailbox"}, "role_mailbox.hop", "without `address`"),
    ({"role_mailbox.names": ["Abuse"]}, "role_mailbox.names", "in lower case"),
    ({"role_mailbox.names": ["abuse@example.org"]}, "role_mailbox.names", "no local part"),
]

WARNINGS: list[tuple[Overrides, str, str]] = [
    # workers
    ({"workers": 4, f"{HOP}.connections": 3}, f"{HOP}.connections", "3 will be 4"),
    ({f"{SUBMISSION}.allow": ["172.17.0.1"]}, f"{SUBMISSION}.allow", "container bridge"),
    ({f"{CAPTURE}.host": "0.0.0.0"}, f"{CAPTURE}.host", "takes mail from everyone"),
    ({"policy.skip": ["0.0.0.0/0"]}, "policy.skip", "is not checked"),
    ({"route.all.sender_domain": ["a.example"], "route.all.mode": "queue"}, "bounce", "no route takes reports"),
    ({"route.all.listener": ["gateway", "submission"], "route.all.on_trouble": "queue"}, "bounce", "by no listener"),
    ({"policy.skip": ["10.0.0.0/8", "2000::/4"]}, "policy.skip", "is not checked"),
    ({"timeout.final_dot": "599s"}, "timeout.final_dot", "may arrive twice"),
    ({**XCLIENT, f"{HOP}.host": ["8.8.8.8"]}, f"{HOP}.identify", "is on the Internet"),
    ({**XCLIENT, f"{HOP}.host": ["10.0.0.1", "2600::1"]}, f"{HOP}.identify", "2600::1 is on the Internet"),
    (
        {
            **{"domain.d.name": "example.org"},
            **REWRITE,
            "masquerade.m.address": "ann@example.com",
        },
        "masquerade.m.address",
        "we do not sign for example.com",
    ),
    ({"route.all.sender": ["@example.org"]}, SUBMISSION, "some recipients; they get 550"),
    ({"route.all.recipient_domain": ["example.org"]}, SUBMISSION, "some recipients; they get 550"),
    ({"route.all.sender_domain": ["example.org"]}, GATEWAY, "example.org; they get 550"),
    (
        {f"{GATEWAY}.domains": ["example.org", "b.example"], "route.all.recipient_domain": ["example.org"]},
        GATEWAY,
        "b.e",
    ),
]

FINE: list[Overrides] = [
    {"workers": 4, f"{HOP}.connections": 4},  # nobody logs in: no hashes to share
    {"delay.greeting.gateway": "279s"},
    {"timeout.command": "5s"},
    {"timeout.dns": "19s"},
    {f"{SUBMISSION}.allow": ["127.0.0.1/32"]},
    {f"{SUBMISSION}.allow": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]},
    {f"{SUBMISSION}.senders": ["*"]},
    {f"{SUBMISSION}.port": 0, f"{GATEWAY}.port": 0, f"{CAPTURE}.port": 0, "web.port": 0},
    {f"{CAPTURE}.host": "127.0.0.2", f"{CAPTURE}.port": 2525},
    INBOX,
    LOGIN,
    {**LOGIN, f"{HOP}.tls": "none", f"{HOP}.host": ["127.0.0.1"]},
    {f"{HOP}.host": ["127.0.0.1"], f"{HOP}.port": 25},
    {**INBOX, "hostname": "localhost", f"{GATEWAY}.host": "::1"},
    {**DOMAIN, f"{KEY}.generate": True},
    {f"{GATEWAY}.proxy_from": ["10.0.0.0/8", "127.0.0.1"]},
    {f"{SUBMISSION}.proxy_from": ["127.0.0.1", "192.0.2.7"]},
    {f"{GATEWAY}.verify_recipients": True},
    {"verify.positive": "7 d", "verify.negative": "3 h"},  # as old as it gets
    {"policy.quarantine_hop": "mailbox", "policy.mode": "monitor", "policy.spf.fail": "refuse"},
    {"policy.skip": ["10.0.0.0/8", "fd00::/8"], "policy.trusted_sealers": ["lists.example.net"]},
    {"policy.forwarder.a.network": ["192.0.2.0/24"], "shadow.forwarder.b.name": ["lists.example.net"]},
    {"shadow.dmarc.reject": True, "dns.nameservers": ["127.0.0.1:5353", "::1"], "journal.keep": "5 d"},
    RATE,
    {**RATE, "rate.r.messages": 0, "rate.r.recipients": 1, "rate.r.listener": ["gateway", "submission"]},
    {"stress.command": "5 min", "stress.errors": 10},  # no milder
    {"timeout.command": "1s", "limit.errors": 1, "limit.junk": 1},  # nobody set the stress that is milder than these
    {**REWRITE, **SECOND},
    {"domain.d.name": "example.org", **REWRITE, "masquerade.m.address": "@mail.Example.org"},  # subdomains are signed
    # What an earlier table takes on another listener only is not taken.
    {
        **{"listener.two.role": "submission", "listener.two.port": 2527},
        **{"listener.two.allow": ["10.0.0.0/8"], "listener.two.senders": ["*"]},
        **{**REWRITE, "masquerade.m.match": ["*"], "masquerade.m.listener": ["two"]},
        **SECOND,
    },
    {f"{HOP}.kind": "lmtp", f"{HOP}.port": 24},
    {"queue.url": "postgresql://relay:secret@db.example.net:5432/relay?sslmode=require", "queue.warn": "4 h"},
    {"role_mailbox.address": "ops@example.org", "role_mailbox.names": ["abuse"], "role_mailbox.hop": "mailbox"},
    {**XCLIENT, f"{HOP}.host": ["10.0.0.1", "fd00::1", "::1", "mail.example.net"]},  # DNS is not asked about names
    OAUTH2,
    {**OAUTH2, f"{HOP}.tls": "none", f"{HOP}.host": ["127.0.0.1"]},
    # RFC 6749 §2.1: a public client
    {**{name: OAUTH2[name] for name in OAUTH2 if "secret" not in name}, f"{HOP}.oauth2.refresh_token": "token"},
]


@pytest.mark.parametrize(("overrides", "key", "words"), ERRORS)
def test_it_does_not_load(tmp_path: Path, overrides: Overrides, key: str, words: str) -> None:
    errors, _ = problems(tmp_path, overrides)
    assert has(errors, key, words), errors


@pytest.mark.parametrize(("overrides", "key", "words"), WARNINGS)
def test_it_loads_with_a_warning(tmp_path: Path, overrides: Overrides, key: str, words: str) -> None:
    errors, warnings = problems(tmp_path, overrides)
    assert not errors
    assert has(warnings, key, words), warnings


@pytest.mark.parametrize("overrides", FINE)
def test_it_loads(tmp_path: Path, overrides: Overrides) -> None:
    assert problems(tmp_path, overrides) == ([], [])
