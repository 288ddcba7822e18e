"""Pure: whether the sender of a stranger's message may be sent a report about it.

Whoever forged a reverse-path would have us send the failure of his mail to a third party. So only those hear
of it whose domain has said, through SPF or DKIM, that the mail is its own.

STANDARDS  RFC 5321 §3.6.2, §4.5.5 (no reports about reports), RFC 3834 §4.
"""

from __future__ import annotations

from relay.address import Address, domain_key
from relay.config.queue import Unverified
from relay.verdict import DkimResult, SpfResult, Verdicts


def may_report(reverse_path: Address | None, verdicts: Verdicts, unverified: Unverified) -> bool:
    """verdicts: of this message, which is not from a client that the configuration exempts from checks."""
    if reverse_path is None:
        return False
    if unverified is Unverified.SEND or verdicts.spf.result is SpfResult.PASS:
        return True
    domain = reverse_path.domain_key
    signers = {domain_key(one.domain) for one in verdicts.dkim if one.result is DkimResult.PASS}
    return any(domain == signer or domain.endswith(f".{signer}") for signer in signers)
