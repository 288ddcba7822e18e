"""The metrics of several processes as one page: counters, histograms and most gauges are added up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

Families = Sequence[Metric]

# What no sum says: the first process speaks for all, or the one that has the most.
_FIRST = {"relay_build_info", "relay_config_reload_ok", "process_max_fds", "process_start_time_seconds"}
_MOST = {"relay_queue_hop_down"}
# What goes on counting when its process has gone: Prometheus would take a smaller number for a restart.
_LASTING = {"counter", "histogram"}


def total(processes: Iterable[Families]) -> list[Metric]:
    """One family for each name; of what a label does not tell apart, the sum."""
    found: dict[str, tuple[Metric, dict[tuple[str, frozenset[tuple[str, str]]], Sample]]] = {}
    for families in processes:
        for family in families:
            empty = Metric(family.name, family.documentation, family.type, family.unit)
            _, samples = found.setdefault(family.name, (empty, {}))
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                before = samples.get(key)
                value = sample.value if before is None else _join(sample.name)(before.value, sample.value)
                samples[key] = Sample(sample.name, sample.labels, value)
    for family, samples in found.values():
        family.samples = [*samples.values()]
    return [family for family, _ in found.values()]


def lasting(families: Families) -> list[Metric]:
    """What remains of a process that has ended."""
    return [family for family in families if family.type in _LASTING]


def expose(processes: Iterable[Families]) -> bytes:
    """The page that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(_Totals(total(processes)))
    return generate_latest(registry)


class _Totals(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _join(name: str) -> Callable[[float, float], float]:
    if name in _FIRST:
        return _first
    if name in _MOST:
        return max
    return min if name.endswith("_created") else _sum


def _first(one: float, other: float) -> float:
    return one


def _sum(one: float, other: float) -> float:
    return one + other
