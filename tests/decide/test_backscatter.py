"""Who may be told that a stranger's mail failed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.address import Address
from relay.config.queue import Unverified
from relay.decide.backscatter import may_report
from relay.verdict import DkimResult, DkimVerdict, DmarcResult, DmarcVerdict, SpfResult, SpfVerdict, Verdicts
from tests.support.verdicts import PLAIN

ANN = Address("ann", "News.Example.com")


def verdicts(spf: SpfResult, *signers: str, result: DkimResult = DkimResult.PASS) -> Verdicts:
    return replace(
        PLAIN,
        spf=SpfVerdict(spf),
        helo=SpfVerdict(SpfResult.PASS),  # it owns up to nothing but its own name
        dkim=tuple(DkimVerdict(result, domain) for domain in signers),
        dmarc=DmarcVerdict(DmarcResult.PASS),  # of the author, who need not be the sender
    )


ROWS = [
    (ANN, verdicts(SpfResult.PASS), True),
    (ANN, verdicts(SpfResult.NONE), False),
    (ANN, verdicts(SpfResult.SOFTFAIL), False),
    (ANN, verdicts(SpfResult.TEMPERROR), False),
    (ANN, verdicts(SpfResult.FAIL, "news.example.com"), True),
    (ANN, verdicts(SpfResult.FAIL, "Example.COM"), True),  # a domain speaks for those under it
    (ANN, verdicts(SpfResult.FAIL, "other.example", "example.com"), True),
    (ANN, verdicts(SpfResult.FAIL, "other.example"), False),
    (ANN, verdicts(SpfResult.FAIL, "ample.com"), False),
    (ANN, verdicts(SpfResult.FAIL, "deep.news.example.com"), False),
    (ANN, verdicts(SpfResult.FAIL, "example.com", result=DkimResult.FAIL), False),
    (None, verdicts(SpfResult.PASS), False),  # RFC 5321 §4.5.5: nothing is reported to <>
    (None, None, False),
]


@pytest.mark.parametrize(("path", "found", "expected"), ROWS)
def test_only_a_domain_that_owns_up_is_told(path: Address | None, found: Verdicts | None, expected: bool) -> None:
    assert may_report(path, found, Unverified.HOLD) is expected
    assert may_report(path, found, Unverified.DROP) is expected


def test_unless_the_operator_wants_it() -> None:
    assert may_report(ANN, verdicts(SpfResult.FAIL), Unverified.SEND)
    assert not may_report(None, verdicts(SpfResult.FAIL), Unverified.SEND)
