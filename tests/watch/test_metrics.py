"""Each fact is counted under labels that no stranger can choose."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay import __version__
from relay.fact import Fact
from relay.watch.metrics import Metrics

Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    """What Prometheus would read: (name, labels) to value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.expose().decode())
        for sample in family.samples
    }


def counted(*facts: Fact) -> Samples:
    metrics = Metrics()
    for fact in facts:
        metrics.record(fact)
    return samples(metrics)


IN = {"listener": "gateway"}
PEER = {"ip": "203.0.113.9", "port": 50000}
HOP = {"hop": "mailbox", "host": "mx.example.net", "to": ["bob@example.net"], "elapsed_ms": 1500.0}


@pytest.mark.parametrize(
    ("event", "values", "name", "labels"),
    [
        ("accept.connected", IN | PEER, "relay_connections_total", IN),
        ("accept.connected", IN | PEER, "relay_connections_open", IN),
        (
            "accept.refused",
            IN | {"reply": "421 4.7.0 x", "why": "limit"},
            "relay_connections_refused_total",
            IN | {"why": "limit"},
        ),
        (
            "accept.rejected",
            IN | {"stage": "rcpt", "reply": "550 5.7.1 no"},
            "relay_rejections_total",
            {"stage": "rcpt", "result": "rejected"},
        ),
        (
            "accept.rejected",
            IN | {"stage": "mail", "reply": "452 4.3.1 no"},
            "relay_rejections_total",
            {"stage": "mail", "result": "deferred"},
        ),
        (
            "accept.tls",
            IN | {"version": "TLSv1.3"},
            "relay_tls_connections_total",
            {"side": "client", "version": "TLSv1.3"},
        ),
        (
            "accept.tls",
            {"failed": "no shared cipher"},
            "relay_tls_connections_total",
            {"side": "client", "version": "failed"},
        ),
        ("accept.login", IN | {"login": "ann", "result": "failed"}, "relay_login_total", {"result": "failed"}),
        ("accept.received", IN | {"size": 5}, "relay_message_size_bytes_count", IN),
        ("pipeline.answered", IN | {"reply": "250 2.0.0 OK"}, "relay_messages_total", IN | {"result": "accepted"}),
        ("pipeline.answered", IN | {"reply": "451 4.3.0 x"}, "relay_messages_total", IN | {"result": "deferred"}),
        ("pipeline.answered", IN | {"reply": "550 5.7.1 x"}, "relay_messages_total", IN | {"result": "rejected"}),
        ("pipeline.answered", IN | {"reply": "250 x"}, "relay_answer_duration_seconds_count", IN),
        (
            "decide.verified",
            {"hop": "mailbox", "to": "ann@example.org", "result": "unknown"},
            "relay_verifications_total",
            {"hop": "mailbox", "result": "unknown"},
        ),
        (
            "decide.rated",
            {"rate": "apps", "per": "login", "counted": "messages", "who": "ann"},
            "relay_rate_limited_total",
            {"rate": "apps"},
        ),
        (
            "edit.signed",
            {"domain": "example.org", "selectors": ["a"]},
            "relay_dkim_signed_total",
            {"domain": "example.org"},
        ),
        ("edit.unsigned", {"domain": "example.org"}, "relay_dkim_unsigned_total", {"domain": "example.org"}),
        ("forward.delivered", HOP, "relay_delivery_total", {"hop": "mailbox", "result": "delivered"}),
        ("forward.deferred", HOP, "relay_delivery_total", {"hop": "mailbox", "result": "deferred"}),
        ("forward.refused", HOP, "relay_delivery_total", {"hop": "mailbox", "result": "refused"}),
        ("forward.ambiguous", HOP, "relay_delivery_total", {"hop": "mailbox", "result": "ambiguous"}),
        ("forward.delivered", HOP, "relay_delivery_duration_seconds_count", {"hop": "mailbox"}),
        (
            "forward.connected",
            HOP | {"tls": "TLSv1.2"},
            "relay_tls_connections_total",
            {"side": "hop", "version": "TLSv1.2"},
        ),
        ("inbox.stored", {"hop": "inbox", "size": 5}, "relay_delivery_total", {"hop": "inbox", "result": "delivered"}),
        (
            "inbox.trouble",
            {"hop": "inbox", "cause": "x"},
            "relay_delivery_total",
            {"hop": "inbox", "result": "deferred"},
        ),
        ("inbox.trouble", {"hop": "inbox", "cause": "x"}, "relay_trouble_total", {"stage": "inbox"}),
        ("forward.trouble", HOP | {"cause": "connect: refused"}, "relay_trouble_total", {"stage": "forward"}),
        ("queue.trouble", {"cause": "locked"}, "relay_trouble_total", {"stage": "queue"}),
        ("queue.delivered", HOP, "relay_queue_attempts_total", {"hop": "mailbox", "result": "delivered"}),
        ("queue.deferred", HOP, "relay_queue_attempts_total", {"hop": "mailbox", "result": "deferred"}),
        ("queue.failed", HOP, "relay_queue_attempts_total", {"hop": "mailbox", "result": "failed"}),
        ("queue.lapsed", HOP | {"state": "held", "crashes": 5}, "relay_queue_held_total", {"cause": "poison"}),
        ("queue.held", HOP | {"cause": "operator"}, "relay_queue_held_total", {"cause": "operator"}),
        ("queue.held", HOP | {"cause": "no route for the report"}, "relay_queue_held_total", {"cause": "no_route"}),
        ("queue.held", HOP | {"cause": "rcpt: 550 5.1.1 gone"}, "relay_queue_held_total", {"cause": "failed"}),
        ("queue.reported", {"action": "delayed"}, "relay_queue_reports_total", {"action": "delayed"}),
        ("queue.committed", {"operations": 3, "elapsed_ms": 1.5}, "relay_queue_commits_total", {}),
        ("queue.committed", {"operations": 3, "elapsed_ms": 1.5}, "relay_queue_commit_operations_count", {}),
        ("queue.committed", {"operations": 3, "elapsed_ms": 1.5}, "relay_queue_commit_seconds_count", {}),
    ],
)
def test_what_a_fact_counts(event: str, values: dict[str, object], name: str, labels: dict[str, str]) -> None:
    key = (name, tuple(sorted(labels.items())))
    metrics = Metrics()
    assert samples(metrics).get(key, 0) == 0
    metrics.record(Fact(event, "1m80vg2g4exwx61e", values))
    metrics.record(Fact(event, "1m80vg2g4exwx61e", values))
    assert samples(metrics)[key] == 2


def test_open_connections_go_up_and_down() -> None:
    opened, closed = Fact("accept.connected", "", IN | PEER), Fact("accept.closed", "", IN | PEER)
    found = counted(opened, opened, opened, closed)
    assert found["relay_connections_open", (("listener", "gateway"),)] == 2
    assert found["relay_connections_total", (("listener", "gateway"),)] == 3


def test_durations_are_in_seconds_and_sizes_in_octets() -> None:
    found = counted(
        Fact("forward.delivered", "", HOP),
        Fact("accept.received", "", IN | {"size": 12_345}),
        Fact("pipeline.answered", "", IN | {"reply": "250 x", "elapsed_ms": 250}),
    )
    assert found["relay_delivery_duration_seconds_sum", (("hop", "mailbox"),)] == 1.5
    assert found["relay_message_size_bytes_sum", (("listener", "gateway"),)] == 12_345
    assert found["relay_answer_duration_seconds_sum", (("listener", "gateway"),)] == 0.25


def test_the_queue_is_counted_by_recipient_and_its_commits_in_seconds() -> None:
    found = counted(
        Fact("queue.deferred", "", {"hop": "mailbox", "to": ["ann@example.org", "bob@example.net"]}),
        Fact("queue.held", "", {"to": ["ann@example.org", "bob@example.net"], "cause": "operator"}),
        Fact("queue.lapsed", "", {"to": "ann@example.org", "state": "waiting", "crashes": 1}),
        Fact("queue.committed", "", {"operations": 40, "elapsed_ms": 12.5, "syncs": 1}),
    )
    assert found["relay_queue_attempts_total", (("hop", "mailbox"), ("result", "deferred"))] == 2
    assert found["relay_queue_held_total", (("cause", "operator"),)] == 2
    assert ("relay_queue_held_total", (("cause", "poison"),)) not in found
    assert found["relay_queue_commit_operations_sum", ()] == 40
    assert found["relay_queue_commit_seconds_sum", ()] == 0.0125


def test_the_depth_of_the_queue_is_the_last_that_was_told() -> None:
    waiting = {"hop": "mailbox", "state": "waiting"}
    key = tuple(sorted(waiting.items()))
    first = Fact("queue.depth", "", waiting | {"recipients": 70, "messages": 50, "oldest": 3600.0})
    found = counted(first)
    assert (found["relay_queue_recipients", key], found["relay_queue_oldest_seconds", key]) == (70, 3600)
    found = counted(first, Fact("queue.depth", "", waiting | {"recipients": 0, "messages": 0, "oldest": 0.0}))
    assert (found["relay_queue_recipients", key], found["relay_queue_oldest_seconds", key]) == (0, 0)


def test_a_hop_is_down_until_it_is_up() -> None:
    down, up = Fact("queue.down", "", {"hop": "mailbox", "cause": "x"}), Fact("queue.up", "", {"hop": "mailbox"})
    key = ("relay_queue_hop_down", (("hop", "mailbox"),))
    assert counted(down)[key] == 1
    assert counted(down, up)[key] == 0


def test_a_plain_connection_to_a_hop_is_no_tls_connection() -> None:
    assert not [name for name, _ in counted(Fact("forward.connected", "", HOP | {"tls": ""})) if "_tls_" in name]


def test_an_unknown_fact_counts_nothing() -> None:
    before, after = counted(), counted(Fact("some.thing", "x", {"listener": "gateway", "reply": "250"}))
    assert {name for name, _ in before} == {name for name, _ in after}


FACTS = [
    "accept.connected accept.closed accept.refused accept.rejected accept.tls accept.login accept.received",
    "pipeline.answered edit.signed edit.unsigned edit.not_ours forward.connected forward.delivered forward.deferred",
    "forward.refused forward.ambiguous forward.trouble inbox.stored inbox.trouble pipeline.trouble",
    "queue.depth queue.down queue.up queue.committed queue.held queue.reported queue.delivered queue.deferred",
    "queue.failed queue.kept queue.lapsed queue.dropped queue.trouble",
]


def test_nothing_that_a_stranger_chooses_becomes_a_label() -> None:
    foreign = {
        **{key: f"canary-{key}" for key in ("ip", "helo", "from", "to", "login", "host", "cause", "text", "selectors")},
        **{"size": 1, "elapsed_ms": 1, "reply": "550 5.1.1 canary-reply"},
    }
    ours = {
        "listener": "gateway",
        "hop": "mailbox",
        "why": "limit",
        "stage": "rcpt",
        "version": "TLSv1.3",
        "result": "ok",
        "tls": "",
        "state": "waiting",
        "action": "failed",
    }
    found = Metrics()
    for event in " ".join(FACTS).split():
        domain = "canary-domain" if event == "edit.not_ours" else "example.org"
        found.record(Fact(event, "canary-id", {**foreign, **ours, "domain": domain}))
    assert b"canary" not in found.expose()


def test_a_fact_without_its_values_is_no_fault() -> None:
    """A fact is recorded in the middle of a delivery: counting must never raise."""
    metrics = Metrics()
    for event in " ".join(FACTS).split():
        metrics.record(Fact(event))
        metrics.record(Fact(event, "", {"size": "many", "elapsed_ms": None, "reply": None, "tls": 3}))


def test_the_manual_names_every_metric_of_the_queue_and_no_other() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "queue.md").read_text()
    table = manual.partition("\n## Metrics\n")[2].partition("```")[0]
    exposed = re.findall(r"^# TYPE (relay_queue_\w+) ", Metrics().expose().decode(), re.M)
    ours = {name for name in exposed if not name.endswith("_created")}
    assert set(re.findall(r"^\| `(relay_queue_\w+)`", table, re.M)) == ours


def test_the_version_and_the_process_are_there() -> None:
    found = counted()
    assert [dict(labels)["version"] for name, labels in found if name == "relay_build_info"] == [__version__]
    assert found["process_resident_memory_bytes", ()] > 0


def test_two_relays_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.record(Fact("accept.connected", "", IN))
    assert ("relay_connections_total", (("listener", "gateway"),)) not in samples(other)
