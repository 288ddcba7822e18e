"""Few rows that still try every pair of values: a covering array, picked greedily and always the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product

Row = dict[str, str]


def pairwise(dimensions: Mapping[str, Sequence[str]], possible: Callable[[Row], bool]) -> list[Row]:
    """Rows such that every pair of values of two dimensions that occurs in a possible row occurs in one of these."""
    names = list(dimensions)
    rows = [row for values in product(*dimensions.values()) if possible(row := dict(zip(names, values, strict=True)))]
    bits: dict[object, int] = {}  # each pair of values is one bit, so that a row is one number
    pairs = [sum(bits.setdefault(pair, 1 << len(bits)) for pair in combinations(row.items(), 2)) for row in rows]
    left = (1 << len(bits)) - 1
    picked = []
    while left:
        best = max(range(len(rows)), key=lambda index: (pairs[index] & left).bit_count())
        picked.append(rows[best])
        left &= ~pairs[best]
    return picked
