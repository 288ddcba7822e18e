"""What is counted: each fact into Prometheus metrics.

Labels are bounded: names from the configuration and words of our own, never an address, an IP or a
domain that a stranger could choose.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from relay import __version__
from relay.fact import Fact

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SIZES = (1_000, 10_000, 100_000, 1_000_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
_DELIVERIES = {
    "forward.delivered": "delivered",
    "forward.deferred": "deferred",
    "forward.refused": "refused",
    "forward.ambiguous": "ambiguous",
    "inbox.stored": "delivered",
    "inbox.trouble": "deferred",
}

Values = Mapping[str, object]


class Metrics:
    """`record` counts a fact; `expose` is the page that Prometheus reads."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("relay_build", "what is running", registry=registry).info(
            {"version": __version__, "python": platform.python_version()}
        )

        # A child is looked up by its labels at each message, and `labels` takes long about it.
        def counter(name: str, text: str, *labels: str) -> Callable[..., Counter]:
            return cache(Counter(f"relay_{name}_total", text, labels, registry=registry).labels)

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Callable[..., Histogram]:
            return cache(Histogram(f"relay_{name}", text, labels, buckets=buckets, registry=registry).labels)

        self._connections = counter("connections", "client connections taken", "listener")
        self._connected: Callable[..., Gauge] = cache(
            Gauge("relay_connections_open", "client connections open", ["listener"], registry=registry).labels
        )
        self._refused = counter(
            "connections_refused", "client connections turned away or ended by us", "listener", "why"
        )
        self._rejected = counter("rejections", "replies 4xx and 5xx to clients before the pipeline", "stage", "result")
        self._messages = counter("messages", "messages answered after the final dot", "listener", "result")
        self._sizes = histogram("message_size_bytes", "messages received", _SIZES, "listener")
        self._answers = histogram(
            "answer_duration_seconds", "from a message's final dot to our reply", _SECONDS, "listener"
        )
        self._deliveries = counter("delivery", "delivery attempts", "hop", "result")
        self._durations = histogram("delivery_duration_seconds", "delivery attempts", _SECONDS, "hop")
        self._verified = counter("verifications", "questions to next hops about a recipient", "hop", "result")
        self._rated = counter("rate_limited", "MAIL and RCPT commands refused because of a rate", "rate")
        self._signed = counter("dkim_signed", "messages signed", "domain")
        self._unsigned = counter("dkim_unsigned", "messages of our domains let out without a signature", "domain")
        self._logins = counter("login", "logins", "result")
        self._tls = counter("tls_connections", "TLS handshakes", "side", "version")
        self._generations = Counter(
            "relay_config_generation_total", "configurations taken, the first one included", registry=registry
        )
        self._reload_ok = Gauge("relay_config_reload_ok", "1 if the last reload was taken", registry=registry)
        self._checks = counter("auth_check", "results of checks of inbound mail", "check", "result")
        self._check_seconds = Histogram(
            "relay_auth_check_duration_seconds", "all checks of a message", buckets=_SECONDS, registry=registry
        )
        self._decisions = counter("decisions", "what followed from the checks", "action", "applied", "rule")
        self._differences = counter("shadow_differences", "decisions that the shadow rules differ in", "difference")
        self._trouble = counter("trouble", "internal trouble, see the log", "stage")
        self._counts: dict[str, Callable[[Values], None]] = {
            "accept.connected": self._count_connected,
            "accept.closed": lambda values: self._connected(_word(values, "listener")).dec(),
            "accept.refused": lambda values: self._refused(_word(values, "listener"), _word(values, "why")).inc(),
            "accept.rejected": lambda values: self._rejected(_word(values, "stage"), _result(values)).inc(),
            "accept.tls": lambda values: self._tls("client", _word(values, "version") or "failed").inc(),
            "accept.login": lambda values: self._logins(_word(values, "result")).inc(),
            "accept.received": self._count_received,
            "pipeline.answered": self._count_answered,
            "decide.verified": lambda values: self._verified(_word(values, "hop"), _word(values, "result")).inc(),
            "decide.rated": lambda values: self._rated(_word(values, "rate")).inc(),
            "edit.signed": lambda values: self._signed(_word(values, "domain")).inc(),
            "edit.unsigned": lambda values: self._unsigned(_word(values, "domain")).inc(),
            "forward.connected": self._count_hop_tls,
            "authenticate.checked": self._count_checks,
            "decide.decided": lambda values: self._decisions(
                _word(values, "action"), _word(values, "applied"), _word(values, "rule")
            ).inc(),
            "decide.shadow": lambda values: self._differences(_word(values, "difference")).inc(),
            "app.started": self._count_configuration,
            "config.reloaded": self._count_configuration,
            "config.rejected": lambda values: self._reload_ok.set(0),
        }

    def record(self, fact: Fact) -> None:
        if count := self._counts.get(fact.event):
            count(fact.values)
        elif result := _DELIVERIES.get(fact.event):
            hop = _word(fact.values, "hop")
            self._deliveries(hop, result).inc()
            if "elapsed_ms" in fact.values:
                self._durations(hop).observe(_number(fact.values, "elapsed_ms") / 1000)
        if fact.event.endswith(".trouble"):
            self._trouble(fact.event.removesuffix(".trouble")).inc()

    def expose(self) -> bytes:
        return generate_latest(self._registry)

    def _count_connected(self, values: Values) -> None:
        self._connections(_word(values, "listener")).inc()
        self._connected(_word(values, "listener")).inc()

    def _count_received(self, values: Values) -> None:
        self._sizes(_word(values, "listener")).observe(_number(values, "size"))

    def _count_answered(self, values: Values) -> None:
        listener = _word(values, "listener")
        self._messages(listener, _result(values)).inc()
        self._answers(listener).observe(_number(values, "elapsed_ms") / 1000)

    def _count_checks(self, values: Values) -> None:
        for check in ("dmarc", "spf", "helo", "arc", "iprev"):
            self._checks(check, _word(values, check)).inc()
        signatures = values.get("dkim")
        for one in signatures if isinstance(signatures, list) else ():
            self._checks("dkim", str(one).partition(" ")[0]).inc()
        self._check_seconds.observe(_number(values, "elapsed_ms") / 1000)

    def _count_configuration(self, values: Values) -> None:
        self._generations.inc()
        self._reload_ok.set(1)

    def _count_hop_tls(self, values: Values) -> None:
        if version := _word(values, "tls"):
            self._tls("hop", version).inc()


def _word(values: Values, key: str) -> str:
    return str(values.get(key, ""))


def _number(values: Values, key: str) -> float:
    value = values.get(key, 0)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _result(values: Values) -> str:
    """By the first digit of the reply: accepted, deferred, rejected."""
    return {"2": "accepted", "4": "deferred", "5": "rejected"}.get(_word(values, "reply")[:1], "other")
