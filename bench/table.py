"""A table of results: medians and spread, the relay's figure against each peer's, as text and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

RELAY = "relay"


@dataclass(frozen=True, slots=True)
class Metric:
    """name: in JSON, with its unit. heading: of the column."""

    name: str
    heading: str
    digits: int = 0


@dataclass(slots=True)
class Table:
    """metrics: the first one gets spread and ratio. rows: (case, peer) → metric → one value a round."""

    name: str
    about: str
    metrics: tuple[Metric, ...]
    rows: dict[tuple[str, str], dict[str, list[float]]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)  # peer → reasons

    def add(self, case: str, peer: str, **values: float) -> None:
        """The results of one round."""
        row = self.rows.setdefault((case, peer), {})
        for name, value in values.items():
            row.setdefault(name, []).append(value)

    def leave_out(self, peer: str, reason: object) -> None:
        """The peer has no figures, or not all of them, for this reason."""
        reasons = self.left_out.setdefault(peer, [])
        if str(reason) not in reasons:
            reasons.append(str(reason))

    def ratio(self, case: str, peer: str) -> float | None:
        """The relay's median of the first metric, divided by the peer's."""
        name = self.metrics[0].name
        ours, theirs = self.rows.get((case, RELAY), {}), self.rows[case, peer]
        if peer == RELAY or name not in ours or name not in theirs:
            return None
        return statistics.median(ours[name]) / statistics.median(theirs[name])

    def lines(self) -> Iterator[str]:
        cases = max([4, *(len(case) for case, _ in self.rows)]) + 2
        peers = max([4, *(len(peer) for _, peer in self.rows)]) + 2
        first, *others = self.metrics
        compared = any(peer == RELAY for _, peer in self.rows)
        heading = f"{'':{cases}}{'':{peers}}{first.heading:>12}{'spread':>16}"
        heading += f"{'relay ÷ it':>12}" if compared else ""
        yield heading + "".join(f"{metric.heading:>{_width(metric)}}" for metric in others)
        for case, peer in sorted(self.rows, key=lambda row: list(dict.fromkeys(c for c, _ in self.rows)).index(row[0])):
            values = self.rows[case, peer]
            found = values[first.name]
            spread = f"{min(found):.{first.digits}f}-{max(found):.{first.digits}f}"
            ratio = self.ratio(case, peer)
            line = f"{case:{cases}}{peer:{peers}}{statistics.median(found):12.{first.digits}f}{spread:>16}"
            line += f"{ratio:12.2f}" if ratio else " " * (12 * compared)
            for metric in others:
                cell = f"{statistics.median(values[metric.name]):.{metric.digits}f}" if metric.name in values else "–"
                line += f"{cell:>{_width(metric)}}"
            yield line
        for peer, reasons in self.left_out.items():
            yield from (f"left out: {peer}: {reason}" for reason in reasons)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "about": self.about,
            "rows": [
                {
                    "case": case,
                    "peer": peer,
                    "relay_divided_by_it": self.ratio(case, peer),
                    "metrics": {
                        name: {"median": statistics.median(rounds), "rounds": rounds} for name, rounds in values.items()
                    },
                }
                for (case, peer), values in self.rows.items()
            ],
            "left_out": self.left_out,
        }


def _width(metric: Metric) -> int:
    return max(8, len(metric.heading)) + 2
