"""What is counted is what Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from relay.watch.tally import Counter, Gauge, Histogram


def read(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """(name, values of the labels) to value, but for when it began."""
    return {
        (sample.name, " ".join(sample.labels.values())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_a_counter_counts_each_combination_of_labels_apart() -> None:
    counter = Counter(registry := CollectorRegistry(), "mails", "text", "listener", "result")
    counter.add("a", "accepted")
    counter.add("a", "accepted", by=3)
    counter.add("a", "rejected")
    assert read(registry) == {("mails_total", "a accepted"): 4, ("mails_total", "a rejected"): 1}


def test_a_gauge_is_set_and_goes_up_and_down() -> None:
    gauge = Gauge(registry := CollectorRegistry(), "open", "text", "listener")
    gauge.set(7, "a")
    gauge.add("a", by=-2)
    gauge.add("b")
    assert read(registry) == {("open", "a"): 5, ("open", "b"): 1}


def test_a_bucket_counts_all_up_to_its_bound() -> None:
    histogram = Histogram(registry := CollectorRegistry(), "seconds", "text", (0.5, 1, 1_000_000), "hop")
    for number in (0.5, 0.75, 1, 1.25, 2_000_000):
        histogram.observe(number, "h")
    assert read(registry) == {
        ("seconds_bucket", "h 0.5"): 1,
        ("seconds_bucket", "h 1.0"): 3,
        ("seconds_bucket", "h 1e+06"): 4,
        ("seconds_bucket", "h +Inf"): 5,
        ("seconds_count", "h"): 5,
        ("seconds_sum", "h"): 2_000_003.5,
    }


def test_what_has_no_labels_is_there_before_anything_happened() -> None:
    registry = CollectorRegistry()
    Counter(registry, "mails", "text")
    Gauge(registry, "open", "text")
    Histogram(registry, "seconds", "text", (1,))
    assert set(read(registry).values()) == {0}
    assert {"mails_total", "open", "seconds_count"} <= {name for name, _ in read(registry)}
