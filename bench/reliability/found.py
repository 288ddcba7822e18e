"""What a check came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.ledger_run import Came


@dataclass(frozen=True, slots=True)
class Found:
    """figures: one line for the table. faults: what breaks the bar, in words; none: it is passed.

    is_short: less was run than the bar asks for (`--quick`, or something is not installed).
    """

    figures: str
    faults: Sequence[str] = field(default_factory=tuple)
    is_short: bool = False

    @property
    def word(self) -> str:
        if self.faults:
            return f"**failed** ({len(self.faults)})"
        return "passed, short" if self.is_short else "passed"


def figures(came: Came) -> str:
    """Of a ledger run."""
    books = came.balance
    causes = ", ".join(f"{count} × {cause}" for cause, count in sorted(books.causes.items()))
    parts = [
        f"{came.messages} messages in {came.tries} tries",
        f"{books.acknowledged} recipients acknowledged, {len(books.lost)} lost",
        f"{came.refused} refused, {books.reported} reported",
        f"{books.copies} extra copies ({causes or 'none'}), {len(books.unexplained)} unexplained",
        f"{len(books.damaged)} damaged",
        f"{came.seconds:.0f} s",
    ]
    return "; ".join(parts)
