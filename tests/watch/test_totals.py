"""The page of several processes: sums where a sum says something."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from relay.fact import Fact
from relay.watch import totals
from relay.watch.metrics import Metrics

TAKEN = Fact("accept.connected", "", {"listener": "a"})
CLOSED = Fact("accept.closed", "", {"listener": "a"})
ANSWERED = Fact("pipeline.answered", "m1", {"listener": "a", "reply": "250 2.0.0 OK", "elapsed_ms": 20.0})
DOWN = Fact("queue.down", "", {"hop": "h"})


def process(*facts: Fact) -> totals.Families:
    metrics = Metrics()
    for fact in facts:
        metrics.record(fact)
    return metrics.families()


def read(*processes: totals.Families) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """As Prometheus reads it."""
    page = totals.expose(processes).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


A = (("listener", "a"),)


def test_counters_histograms_and_gauges_are_added_up() -> None:
    page = read(process(TAKEN, TAKEN, CLOSED, ANSWERED), process(TAKEN, ANSWERED), process())
    assert page["relay_connections_total", A] == 3
    assert page["relay_connections_open", A] == 2
    assert page["relay_answer_duration_seconds_count", A] == 2
    assert page["relay_answer_duration_seconds_bucket", (("le", "0.025"), *A)] == 2
    assert page["relay_answer_duration_seconds_bucket", (("le", "0.01"), *A)] == 0
    assert page["relay_messages_total", (*A, ("result", "accepted"))] == 2


def test_what_no_sum_says_is_the_first_ones_or_the_most() -> None:
    page = read(process(Fact("config.reloaded")), process(DOWN), process(DOWN))
    assert page["relay_config_reload_ok", ()] == 1
    assert page["relay_queue_hop_down", (("hop", "h"),)] == 1
    [build] = [value for (name, _), value in page.items() if name == "relay_build_info"]
    assert build == 1


def test_a_process_that_has_gone_has_still_counted() -> None:
    gone = totals.lasting(process(TAKEN, ANSWERED))
    page = read(process(TAKEN), gone)
    assert page["relay_connections_total", A] == 2
    assert page["relay_connections_open", A] == 1  # its connections have gone
    assert page["relay_answer_duration_seconds_count", A] == 1
    # What has gone twice is added up before it is asked for.
    page = read(process(), totals.total((gone, gone)))
    assert page["relay_connections_total", A] == 2


def test_one_process_shows_the_same_as_alone() -> None:
    metrics = Metrics()
    metrics.record(TAKEN)
    metrics.record(ANSWERED)
    alone = {line for line in metrics.expose().decode().splitlines() if not line.startswith("process_")}
    summed = totals.expose([metrics.families()]).decode().splitlines()
    assert alone == {line for line in summed if not line.startswith("process_")}
