"""Policies: they can be followed, and nobody passes by them unnoticed.

STANDARDS  none: RFC 9989 §7 leaves to the receiver what it does.
TRUSTS     that each value is well formed.
FAILS      Findings.
"""

from __future__ import annotations

from collections.abc import Iterator

from relay.config.finding import Finding, check_names
from relay.config.models import Config
from relay.config.networks import is_internet
from relay.config.policy import Forwarder, Rules
from relay.config.shape import Key


def check_policies(config: Config) -> Iterator[Finding]:
    policy = config.policy
    if policy.quarantine_hop is not None:
        yield from check_names(("policy", "quarantine_hop"), [policy.quarantine_hop], config.hop, "hop")
    if policy.seal is not None:
        yield from check_names(("policy", "seal"), [policy.seal], config.domain, "domain")
        if policy.seal in config.domain and not config.domain[policy.seal].key:
            yield Finding(("policy", "seal"), f"[domain.{policy.seal}] has no key to seal with")
    if is_internet(policy.skip):
        yield Finding(
            ("policy", "skip"),
            "a good part of the Internet is not checked; name your own networks only",
            is_warning=True,
        )
    yield from _check_forwarders(("policy",), policy)
    if config.shadow is not None:
        yield from _check_forwarders(("shadow",), config.shadow)


def _check_forwarders(key: Key, rules: Rules) -> Iterator[Finding]:
    for name, forwarder in rules.forwarder.items():
        if not any(getattr(forwarder, condition) for condition in Forwarder.model_fields):
            yield Finding((*key, "forwarder", name), "is nobody; set `name`, `network` or `dkim`, or take it out")
