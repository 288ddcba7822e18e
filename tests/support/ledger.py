"""Pure: three books of one run are compared. Nothing promised is lost, nothing is there twice without a reason.

The client's book says what it submitted, each try under an id of its own, and what was answered; the next hop's
book says what it took and what it refused for good; the relay's log says of which deliveries it never learned
the outcome (`may_duplicate`). `balance` compares them; whatever it finds in `Balance.faults` breaks a promise.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

IN_FLIGHT = 4.0  # seconds between a hop taking a message and the kill that kept the relay from noting it


@dataclass(frozen=True, slots=True)
class Submission:
    """One try of the client. digest: of the content it sent. is_acknowledged: it read 250 behind its final dot."""

    id: str
    recipients: tuple[str, ...]
    digest: str
    is_acknowledged: bool


@dataclass(frozen=True, slots=True)
class Copy:
    """One transaction that the hop took, whatever it answered then.

    submission: "" for a report. digest: of the content from the first line of the client's on.
    queue_id: in the topmost Received field, or in the Message-ID of a report. taken, closed: monotonic seconds; closed:
    when its connection ended, None while it is open. report: the Message-ID of a report.
    reported: what a report says of whom, pairs of submission and recipient.
    """

    submission: str
    recipients: tuple[str, ...]
    digest: str
    queue_id: str
    taken: float
    closed: float | None = None
    report: str = ""
    reported: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Doubt:
    """A fact with `may_duplicate`: the relay cannot know whether `recipient` has the message."""

    queue_id: str
    recipient: str
    cause: str


@dataclass(slots=True)
class Balance:
    """Pairs are (submission, recipient). causes: of the extra copies, each counted once.

    unacknowledged: pairs delivered although the client heard no 250: it may have sent them again.
    """

    acknowledged: int = 0
    delivered: int = 0
    reported: int = 0
    unacknowledged: int = 0
    copies: int = 0  # beyond the first, of messages and of reports
    causes: Counter[str] = field(default_factory=Counter)
    lost: list[tuple[str, str]] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    wrong_reports: list[str] = field(default_factory=list)  # of what was not refused, or a second one of the same

    @property
    def faults(self) -> list[str]:
        """What breaks a promise, in words."""
        lost = [f"lost: {submission} for {recipient}" for submission, recipient in self.lost]
        return lost + self.unexplained + self.damaged + self.wrong_reports


def balance(
    submissions: Iterable[Submission],
    copies: Sequence[Copy],
    refused: Iterable[tuple[str, str]],
    doubts: Iterable[Doubt],
    kills: Sequence[float] = (),
) -> Balance:
    """refused: pairs the hop answered 5xx. kills: monotonic seconds at which the relay was killed."""
    found = Balance()
    sent = {submission.id: submission for submission in submissions}
    refused = set(refused)
    messages = [copy for copy in copies if not copy.report]
    delivered = {(copy.submission, recipient) for copy in messages for recipient in copy.recipients}
    reports = [copy for copy in copies if copy.report]
    reported = _reported(reports, refused, found)

    for submission in sent.values():
        pairs = {(submission.id, recipient) for recipient in submission.recipients}
        if submission.is_acknowledged:
            found.acknowledged += len(pairs)
            found.lost += sorted(pairs - delivered - reported)
        else:
            found.unacknowledged += len(pairs & delivered)
    found.delivered, found.reported = len(delivered), len(reported)

    for copy in messages:
        submission = sent.get(copy.submission)
        if submission is None:
            found.damaged.append(f"nobody sent {copy.submission!r}")
        elif submission.digest != copy.digest:
            found.damaged.append(f"damaged: {copy.submission}")
        elif not set(copy.recipients) <= set(submission.recipients):
            found.damaged.append(f"{copy.submission} went to {copy.recipients}, sent to {submission.recipients}")
    _explain(copies, doubts, kills, found)
    return found


def _reported(reports: Sequence[Copy], refused: set[tuple[str, str]], found: Balance) -> set[tuple[str, str]]:
    """The pairs that some report is about. Two reports differ by their Message-IDs; copies of one do not count here."""
    by_pair: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for report in reports:
        if not report.reported:
            found.wrong_reports.append(f"a report about nobody: {report.report}")
        for pair in report.reported:
            by_pair[pair].add(report.report)
    for pair, ids in by_pair.items():
        if pair not in refused:
            found.wrong_reports.append(f"reported, though never refused: {pair}")
        if len(ids) > 1:
            found.wrong_reports.append(f"reported {len(ids)} times: {pair}")
    return set(by_pair)


def _explain(copies: Sequence[Copy], doubts: Iterable[Doubt], kills: Sequence[float], found: Balance) -> None:
    """One doubt, or one kill with that delivery in flight, explains one copy."""
    causes: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for doubt in doubts:
        causes[doubt.queue_id, doubt.recipient].append(doubt.cause)
    by_pair: defaultdict[tuple[str, str], list[Copy]] = defaultdict(list)
    for copy in copies:
        for recipient in copy.recipients:
            by_pair[copy.report or copy.submission, recipient].append(copy)
    for (name, recipient), same in by_pair.items():
        same.sort(key=lambda copy: copy.taken)
        found.copies += len(same) - 1
        for copy in same[:-1]:  # the relay should have known that these were taken
            known = causes[copy.queue_id, recipient]
            if known:
                found.causes[known.pop(0)] += 1
            elif any(_was_in_flight(copy, kill) for kill in kills):
                found.causes["killed in flight, before it could be logged"] += 1
            else:
                found.unexplained.append(f"{len(same)} copies of {name} for {recipient}, and no reason for it")


def _was_in_flight(copy: Copy, kill: float) -> bool:
    is_open = copy.closed is None or kill <= copy.closed
    return copy.taken <= kill <= copy.taken + IN_FLIGHT and is_open
