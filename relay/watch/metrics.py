"""What is counted: each fact into Prometheus metrics.

Labels are bounded: names from the configuration and words of our own, never an address, an IP or a
domain that a stranger could choose.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Info, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric

from relay import __version__
from relay.fact import Fact
from relay.watch.tally import Counter, Gauge, Histogram

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
}
_RESULTS = {"2": "accepted", "4": "deferred", "5": "rejected"}  # by the first digit of a reply
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

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(registry, f"relay_{name}", text, *labels)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(registry, f"relay_{name}", text, *labels)

        def histogram(name: str, text: str, bounds: Sequence[float], *labels: str) -> Histogram:
            return Histogram(registry, f"relay_{name}", text, bounds, *labels)

        self._connections = counter("connections", "client connections taken", "listener")
        self._connected = gauge("connections_open", "client connections open", "listener")
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
        self._generations = counter("config_generation", "configurations taken, the first one included")
        self._reload_ok = gauge("config_reload_ok", "1 if the last reload was taken")
        self._checks = counter("auth_check", "results of checks of inbound mail", "check", "result")
        self._check_seconds = histogram("auth_check_duration_seconds", "all checks of a message", _SECONDS)
        self._decisions = counter("decisions", "what followed from the checks", "action", "applied", "rule")
        self._differences = counter("shadow_differences", "decisions that the shadow rules differ in", "difference")
        self._trouble = counter("trouble", "internal trouble, see the log", "stage")
        self._counts: dict[str, Callable[[Values], None]] = {
            "accept.connected": self._count_connected,
            "accept.closed": lambda values: self._connected.add(_word(values, "listener"), by=-1),
            "accept.refused": lambda values: self._refused.add(_word(values, "listener"), _word(values, "why")),
            "accept.rejected": lambda values: self._rejected.add(_word(values, "stage"), _result(values)),
            "accept.tls": lambda values: self._tls.add("client", _word(values, "version") or "failed"),
            "accept.login": lambda values: self._logins.add(_word(values, "result")),
            "accept.received": self._count_received,
            "pipeline.answered": self._count_answered,
            "decide.verified": lambda values: self._verified.add(_word(values, "hop"), _word(values, "result")),
            "decide.rated": lambda values: self._rated.add(_word(values, "rate")),
            "edit.signed": lambda values: self._signed.add(_word(values, "domain")),
            "edit.unsigned": lambda values: self._unsigned.add(_word(values, "domain")),
            "forward.connected": self._count_hop_tls,
            "authenticate.checked": self._count_checks,
            "decide.decided": lambda values: self._decisions.add(
                _word(values, "action"), _word(values, "applied"), _word(values, "rule")
            ),
            "decide.shadow": lambda values: self._differences.add(_word(values, "difference")),
            "app.started": self._count_configuration,
            "config.reloaded": self._count_configuration,
            "config.rejected": lambda values: self._reload_ok.set(0),
            **{event: partial(self._count_delivery, result) for event, result in _DELIVERIES.items()},
            "inbox.trouble": self._count_inbox_trouble,
            **_Queue(registry).counts,
        }

    def record(self, fact: Fact) -> None:
        if count := self._counts.get(fact.event):
            count(fact.values)
        elif fact.event.endswith(".trouble"):
            self._trouble.add(fact.event.removesuffix(".trouble"))

    def expose(self) -> bytes:
        return generate_latest(self._registry)

    def families(self) -> list[Metric]:
        """What `expose` shows, as data: for `totals.py`."""
        return [*self._registry.collect()]

    def _count_connected(self, values: Values) -> None:
        self._connections.add(_word(values, "listener"))
        self._connected.add(_word(values, "listener"))

    def _count_received(self, values: Values) -> None:
        self._sizes.observe(_number(values, "size"), _word(values, "listener"))

    def _count_answered(self, values: Values) -> None:
        listener = _word(values, "listener")
        self._messages.add(listener, _result(values))
        self._answers.observe(_number(values, "elapsed_ms") / 1000, listener)

    def _count_delivery(self, result: str, values: Values) -> None:
        hop = _word(values, "hop")
        self._deliveries.add(hop, result)
        if "elapsed_ms" in values:
            self._durations.observe(_number(values, "elapsed_ms") / 1000, hop)

    def _count_inbox_trouble(self, values: Values) -> None:
        self._count_delivery("deferred", values)
        self._trouble.add("inbox")

    def _count_checks(self, values: Values) -> None:
        for check in ("dmarc", "spf", "helo", "arc", "iprev"):
            self._checks.add(check, _word(values, check))
        signatures = values.get("dkim")
        for one in signatures if isinstance(signatures, list) else ():
            self._checks.add("dkim", str(one).partition(" ")[0])
        self._check_seconds.observe(_number(values, "elapsed_ms") / 1000)

    def _count_configuration(self, values: Values) -> None:
        self._generations.add()
        self._reload_ok.set(1)

    def _count_hop_tls(self, values: Values) -> None:
        if version := _word(values, "tls"):
            self._tls.add("hop", version)


class _Queue:
    """What is counted of the queue. counts: by event, as above."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(registry, f"relay_queue_{name}", text, *labels)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(registry, f"relay_queue_{name}", text, *labels)

        def histogram(name: str, text: str, bounds: Sequence[float]) -> Histogram:
            return Histogram(registry, f"relay_queue_{name}", text, bounds)

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
            "queue.down": lambda values: self._down.set(1, _word(values, "hop")),
            "queue.up": lambda values: self._down.set(0, _word(values, "hop")),
            "queue.committed": self._count_commit,
            "queue.held": self._count_held,
            "queue.lapsed": self._count_lapsed,
            "queue.reported": lambda values: self._reports.add(_word(values, "action")),
            **{event: partial(self._count_attempt, result) for event, result in _ATTEMPTS.items()},
        }

    def _count_depth(self, values: Values) -> None:
        labels = _word(values, "hop"), _word(values, "state")
        self._recipients.set(_number(values, "recipients"), *labels)
        self._oldest.set(_number(values, "oldest"), *labels)

    def _count_commit(self, values: Values) -> None:
        self._commits.add()
        self._operations.observe(_number(values, "operations"))
        self._seconds.observe(_number(values, "elapsed_ms") / 1000)

    def _count_held(self, values: Values) -> None:
        self._held.add(_HELD.get(_word(values, "cause"), "failed"), by=_recipients(values))

    def _count_lapsed(self, values: Values) -> None:
        if _word(values, "state") == "held":  # for the last time
            self._held.add("poison")

    def _count_attempt(self, result: str, values: Values) -> None:
        self._attempts.add(_word(values, "hop"), result, by=_recipients(values))


def _recipients(values: Values) -> int:
    """How many a fact is about: `to` is one address or a list of them."""
    to = values.get("to")
    return len(to) if isinstance(to, (list, tuple)) else 1


def _word(values: Values, key: str) -> str:
    value = values.get(key, "")
    return value if type(value) is str else str(value)


def _number(values: Values, key: str) -> float:
    value = values.get(key, 0)
    return value if isinstance(value, (int, float)) else 0


def _result(values: Values) -> str:
    return _RESULTS.get(_word(values, "reply")[:1], "other")
