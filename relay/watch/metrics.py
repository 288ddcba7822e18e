"""What is counted: each fact into Prometheus metrics.

Labels are bounded: names from the configuration and words of our own, never an address, an IP or a
domain that a stranger could choose.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric

from relay import __version__
from relay.fact import Fact

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SIZES = (1_000, 10_000, 100_000, 1_000_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000)
_OPERATIONS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
_DELIVERIES = {
    "forward.delivered": "delivered",
    "forward.deferred": "deferred",
    "forward.refused": "refused",
    "forward.ambiguous": "ambiguous",
    "inbox.stored": "delivered",
    "inbox.trouble": "deferred",
}
# Why a recipient is held, where it is not for what a hop or the sender's domain said.
_HELD = {"operator": "operator", "no route for the report": "no_route"}
_ATTEMPTS = {"queue.delivered": "delivered", "queue.deferred": "deferred", "queue.failed": "failed"}

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
            **_Queue(registry).counts,
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

    def families(self) -> list[Metric]:
        """What `expose` shows, as data: for `totals.py`."""
        return [*self._registry.collect()]

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


class _Queue:
    """What is counted of the queue. counts: by event, as above."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"relay_queue_{name}_total", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"relay_queue_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"relay_queue_{name}", text, buckets=buckets, registry=registry)

        self._recipients = gauge("recipients", "recipients of messages in the queue", "hop", "state")
        self._oldest = gauge("oldest_seconds", "age of the oldest message in the queue", "hop", "state")
        self._down = gauge("hop_down", "1 while the hop is only probed", "hop")
        self._attempts = counter("attempts", "attempts of the queue, by recipient", "hop", "result")
        self._commits = counter("commits", "transactions committed and synced")
        self._operations = histogram("commit_operations", "operations that shared a commit", _OPERATIONS)
        self._seconds = histogram("commit_seconds", "commits, with their syncs", _COMMIT_SECONDS)
        self._held = counter("held", "recipients held", "cause")
        self._reports = counter("reports", "reports to senders", "action")
        self.counts: dict[str, Callable[[Values], None]] = {
            "queue.depth": self._count_depth,
            "queue.down": lambda values: self._down.labels(_word(values, "hop")).set(1),
            "queue.up": lambda values: self._down.labels(_word(values, "hop")).set(0),
            "queue.committed": self._count_commit,
            "queue.held": lambda values: self._held.labels(_HELD.get(_word(values, "cause"), "failed")).inc(
                _recipients(values)
            ),
            "queue.lapsed": self._count_lapsed,
            "queue.reported": lambda values: self._reports.labels(_word(values, "action")).inc(),
            **{event: partial(self._count_attempt, result) for event, result in _ATTEMPTS.items()},
        }

    def _count_depth(self, values: Values) -> None:
        labels = _word(values, "hop"), _word(values, "state")
        self._recipients.labels(*labels).set(_number(values, "recipients"))
        self._oldest.labels(*labels).set(_number(values, "oldest"))

    def _count_commit(self, values: Values) -> None:
        self._commits.inc()
        self._operations.observe(_number(values, "operations"))
        self._seconds.observe(_number(values, "elapsed_ms") / 1000)

    def _count_lapsed(self, values: Values) -> None:
        if _word(values, "state") == "held":  # for the last time
            self._held.labels("poison").inc()

    def _count_attempt(self, result: str, values: Values) -> None:
        self._attempts.labels(_word(values, "hop"), result).inc(_recipients(values))


def _recipients(values: Values) -> int:
    """How many a fact is about: `to` is one address or a list of them."""
    to = values.get("to")
    return len(to) if isinstance(to, (list, tuple)) else 1


def _word(values: Values, key: str) -> str:
    return str(values.get(key, ""))


def _number(values: Values, key: str) -> float:
    value = values.get(key, 0)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _result(values: Values) -> str:
    """By the first digit of the reply: accepted, deferred, rejected."""
    return {"2": "accepted", "4": "deferred", "5": "rejected"}.get(_word(values, "reply")[:1], "other")
