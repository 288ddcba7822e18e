"""Counters, gauges and histograms as plain numbers.

A fact is counted on the way of a message, the page of metrics is asked for a few times a minute. So to count is
a look-up and an addition, without the lock of prometheus_client's own (facts come from the event loop alone); its
families are made when the page is asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import INF, floatToGoString

from relay.clock import SystemClock

Labels = tuple[str, ...]  # their values, in the order of their names

_clock = SystemClock()


class _Tally(Collector):
    """Named as on the page, but for a counter's `_total`. What has no labels is on the page from the start."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, *labels: str) -> None:
        self._name, self._text, self._labels = name, text, labels
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        yield self._family()

    @abstractmethod
    def _family(self) -> Metric: ...


class Counter(_Tally):
    """Only grows."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, *labels: str) -> None:
        super().__init__(registry, name, text, *labels)
        self._numbers: dict[Labels, float] = {}
        self._created: dict[Labels, float] = {}
        if not labels:
            self.add(by=0)

    def add(self, *labels: str, by: float = 1) -> None:
        try:
            self._numbers[labels] += by
        except KeyError:
            self._numbers[labels], self._created[labels] = by, _clock.time()

    def _family(self) -> Metric:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, number in self._numbers.items():
            family.add_metric(labels, number, self._created[labels])
        return family


class Gauge(_Tally):
    """Goes up and down."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, *labels: str) -> None:
        super().__init__(registry, name, text, *labels)
        self._numbers: dict[Labels, float] = {} if labels else {(): 0}

    def add(self, *labels: str, by: float = 1) -> None:
        self._numbers[labels] = self._numbers.get(labels, 0) + by

    def set(self, number: float, *labels: str) -> None:
        self._numbers[labels] = number

    def _family(self) -> Metric:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, number in self._numbers.items():
            family.add_metric(labels, number)
        return family


class Histogram(_Tally):
    """How many numbers were at most each of `bounds` (ascending), and their sum."""

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, bounds: Sequence[float], *labels: str
    ) -> None:
        super().__init__(registry, name, text, *labels)
        self._bounds = bounds
        self._observed: dict[Labels, _Observed] = {} if labels else {(): _Observed(len(bounds))}

    def observe(self, number: float, *labels: str) -> None:
        try:
            observed = self._observed[labels]
        except KeyError:
            observed = self._observed[labels] = _Observed(len(self._bounds))
        observed.counts[bisect_left(self._bounds, number)] += 1
        observed.sum += number

    def _family(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        bounds = [floatToGoString(bound) for bound in (*self._bounds, INF)]  # type: ignore[no-untyped-call]
        for labels, observed in self._observed.items():
            buckets = [*zip(bounds, accumulate(observed.counts), strict=True)]
            family.add_metric(labels, buckets, observed.sum)
            named = dict(zip(self._labels, labels, strict=True))
            family.add_sample(f"{self._name}_created", named, observed.created)
        return family


class _Observed:
    """counts: of numbers up to each bound and above the one before it, and of those above all."""

    __slots__ = "counts", "created", "sum"

    def __init__(self, bounds: int) -> None:
        self.counts = [0] * (bounds + 1)
        self.sum = 0.0
        self.created = _clock.time()
