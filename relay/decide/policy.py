"""What becomes of a message, after what the checks found. Pure: facts in, a Decision out.

The harshest action that any check's table asks for is taken. A pass of DMARC settles SPF and DKIM; a trusted
forwarder, or a trusted ARC seal that says dmarc=pass, settles all that forwarding breaks.

STANDARDS  RFC 9989 §5.4, §7.2, §7.4 (what p= may lead to), RFC 7372 (enhanced codes of refusals),
           RFC 9990 §3.1.1.4 (names of overrides).
TRUSTS     the verdicts, which are ours; of ARC only seals of `trusted_sealers`.
FAILS      never.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from relay.address import domain_key
from relay.authenticate.results_parser import parse_results
from relay.config.policy import Action, AuthorRule, DmarcRules, Forwarder, Mode, Policy, Rules
from relay.reply import Check, Reply, failed_check, malformed
from relay.verdict import (
    ArcResult,
    Disposition,
    DkimResult,
    DkimVerdict,
    DmarcResult,
    DmarcVerdict,
    IprevResult,
    SpfResult,
    SpfVerdict,
    Verdicts,
)

_HARSHNESS = list(Action)
_FOLLOWED = {  # what does as the domain asks
    Disposition.NONE: (Action.ACCEPT, Action.MARK),
    Disposition.QUARANTINE: (Action.QUARANTINE,),
    Disposition.REJECT: (Action.REFUSE,),
}
_UNFIT = re.compile(r"[^A-Za-z0-9._:\[\]-]")  # for a reply
# Of several signatures the message has the best one's result.
_BEST_FIRST = (
    DkimResult.PASS,
    DkimResult.TEMPERROR,
    DkimResult.POLICY,
    DkimResult.FAIL,
    DkimResult.PERMERROR,
    DkimResult.NEUTRAL,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """rule: the key that decided (`policy.spf.fail`), "" when none had to. reason: for log, fields and reply.

    reply: the refusal or deferral; None for what is delivered. monitored: nothing of it is to be done.
    override: why the domain's own policy was not followed, in a word of RFC 9990 §3.1.1.4; "" if it was.
    """

    action: Action
    reason: str = ""
    reply: Reply | None = None
    rule: str = ""
    override: str = ""
    monitored: bool = False

    @property
    def applied(self) -> Action:
        """What is to be done."""
        return Action.ACCEPT if self.monitored else self.action


class _Finding(NamedTuple):
    """What one check asks for. forwarded: forwarding may be the cause."""

    action: Action
    rule: str
    reason: str
    check: Check
    forwarded: bool = True


def is_skipped(ip: IPv4Address | IPv6Address, policy: Policy) -> bool:
    """The mail of this client is not checked at all."""
    address = getattr(ip, "ipv4_mapped", None) or ip
    return any(address in network for network in policy.skip)


def decide(message_id: str, verdicts: Verdicts | None, rules: Rules) -> Decision:
    """verdicts: None for mail that is not checked. message_id: goes into the reply."""
    if verdicts is None:
        return Decision(Action.ACCEPT, rule="policy.skip")
    decision = _decide(message_id, verdicts, rules)
    if not (isinstance(rules, Policy) and rules.mode is Mode.MONITOR) or decision.action is Action.ACCEPT:
        return decision
    return replace(decision, monitored=True, override=_override(verdicts.dmarc, Action.ACCEPT))


def difference(live: Decision, shadow: Decision) -> str:
    """`accept to refuse` when the shadow policy would have done something else; "" when not."""
    return "" if live.action is shadow.action else f"{live.action} to {shadow.action}"


def _decide(message_id: str, verdicts: Verdicts, rules: Rules) -> Decision:
    if verdicts.dmarc.result is DmarcResult.PERMERROR and rules.author is AuthorRule.STRICT:
        problem = verdicts.dmarc.problem or "no author domain"
        refusal = malformed(f"{problem} [{message_id}]")
        return Decision(Action.REFUSE, problem, refusal, "policy.author")
    findings = [found for found in _findings(verdicts, rules) if found.action is not Action.ACCEPT]
    if not findings:
        return Decision(Action.ACCEPT, override=_override(verdicts.dmarc, Action.ACCEPT))
    trusted = _forwarder(verdicts, rules)
    if trusted and any(found.forwarded for found in findings):
        findings = [found for found in findings if not found.forwarded]
        if not findings:
            rule, reason = trusted
            override = "trusted_forwarder" if rule.startswith("policy.forwarder") else "local_policy"
            return Decision(Action.ACCEPT, reason, None, rule, override if _asks(verdicts.dmarc) else "")
    worst = max(findings, key=lambda found: _HARSHNESS.index(found.action))  # the first of equals
    # RFC 7372 §3.4: one code when several checks failed.
    alike = [found for found in findings if found.action is worst.action]
    check = worst.check if len(alike) == 1 else Check.SEVERAL
    reason = "; ".join(found.reason for found in alike)
    reply = None
    if worst.action in (Action.DEFER, Action.REFUSE):
        reply = failed_check(check, reason, message_id, temporary=worst.action is Action.DEFER)
    return Decision(worst.action, reason, reply, worst.rule, _override(verdicts.dmarc, worst.action))


def _findings(verdicts: Verdicts, rules: Rules) -> Iterator[_Finding]:
    """What each check asks for, DMARC first."""
    yield from _dmarc(verdicts.dmarc, rules.dmarc)
    if verdicts.dmarc.result is not DmarcResult.PASS:
        if verdicts.spf.result is not SpfResult.PASS:
            action = Action(getattr(rules.spf, verdicts.spf.result))
            yield _Finding(
                action, f"policy.spf.{verdicts.spf.result}", _spf("SPF", verdicts.spf), _spf_check(verdicts.spf)
            )
        yield from _dkim(verdicts.dkim, rules)
    if verdicts.helo.result is not SpfResult.PASS:
        action = Action(getattr(rules.helo, verdicts.helo.result))
        reason = _spf("SPF of HELO", verdicts.helo)
        yield _Finding(
            action, f"policy.helo.{verdicts.helo.result}", reason, _spf_check(verdicts.helo), forwarded=False
        )
    if verdicts.arc.result is ArcResult.FAIL:
        yield _Finding(Action(rules.arc.fail), "policy.arc.fail", "ARC fail", Check.ARC)
    if verdicts.iprev.result is not IprevResult.PASS:
        action = Action(getattr(rules.iprev, verdicts.iprev.result))
        reason = f"reverse DNS {verdicts.iprev.result}"
        yield _Finding(action, f"policy.iprev.{verdicts.iprev.result}", reason, Check.REVERSE_DNS, forwarded=False)


def _dmarc(verdict: DmarcVerdict, rules: DmarcRules) -> Iterator[_Finding]:
    domain = _shown(verdict.author_domain)
    if verdict.result is DmarcResult.TEMPERROR:
        yield _Finding(
            Action(rules.temperror), "policy.dmarc.temperror", f"DMARC temperror for {domain}", Check.SEVERAL
        )
    elif verdict.result is DmarcResult.NONE:
        yield _Finding(rules.none, "policy.dmarc.none", f"no DMARC policy for {domain}", Check.SEVERAL)
    elif _asks(verdict):
        # RFC 9989 §7.2 wants the word DMARC in it.
        reason = f"DMARC fail, policy of {domain} is {verdict.disposition}"
        refused = verdict.disposition is Disposition.REJECT and rules.reject
        action, rule = (Action.REFUSE, "reject") if refused else (rules.quarantine, "quarantine")
        yield _Finding(action, f"policy.dmarc.{rule}", reason, Check.SEVERAL)


def _dkim(signatures: Sequence[DkimVerdict], rules: Rules) -> Iterator[_Finding]:
    results = {signature.result for signature in signatures}
    result = next((one for one in _BEST_FIRST if one in results), DkimResult.NONE)
    if result is DkimResult.PASS:
        return
    check = Check.DKIM_NOT_ACCEPTABLE if result is DkimResult.POLICY else Check.DKIM
    yield _Finding(Action(getattr(rules.dkim, result)), f"policy.dkim.{result}", f"DKIM {result}", check)


def _spf(what: str, verdict: SpfVerdict) -> str:
    return f"{what} {verdict.result} for {_shown(verdict.domain)}"


def _spf_check(verdict: SpfVerdict) -> Check:
    return Check.SPF_ERROR if verdict.result in (SpfResult.PERMERROR, SpfResult.TEMPERROR) else Check.SPF


def _asks(verdict: DmarcVerdict) -> bool:
    """The author's domain wants something done about this message."""
    return verdict.result is DmarcResult.FAIL and verdict.disposition is not Disposition.NONE


def _override(verdict: DmarcVerdict, action: Action) -> str:
    """RFC 9990 §3.1.1.4: a word for a policy not followed; t=y is one too."""
    if verdict.result is not DmarcResult.FAIL:
        return ""
    if verdict.testing:
        return "policy_test_mode"
    return "" if action in _FOLLOWED[verdict.disposition] else "local_policy"


def _forwarder(verdicts: Verdicts, rules: Rules) -> tuple[str, str] | None:
    """The rule that trusts who handed the message on, and the reason; None when nobody does."""
    for name, forwarder in rules.forwarder.items():
        if _matches(verdicts, forwarder):
            return f"policy.forwarder.{name}", f"trusted forwarder {name}"
    sealer = _sealer(verdicts, rules)
    return ("policy.trusted_sealers", f"ARC seal of {sealer} says dmarc=pass") if sealer else None


def _matches(verdicts: Verdicts, forwarder: Forwarder) -> bool:
    """All conditions that are given hold, and at least one is given."""
    ip, name = verdicts.iprev.ip, verdicts.iprev.name if verdicts.iprev.result is IprevResult.PASS else ""
    signers = {domain_key(one.domain) for one in verdicts.dkim if one.result is DkimResult.PASS}
    conditions = []
    if forwarder.network:
        conditions.append(any((getattr(ip, "ipv4_mapped", None) or ip) in network for network in forwarder.network))
    if forwarder.name:
        conditions.append(any(_is_within(name, domain_key(domain)) for domain in forwarder.name))
    if forwarder.dkim:
        conditions.append(any(domain_key(domain) in signers for domain in forwarder.dkim))
    return bool(conditions) and all(conditions)


def _sealer(verdicts: Verdicts, rules: Rules) -> str:
    """The newest sealer, if it is trusted and found that DMARC passed for this author; else ""."""
    arc = verdicts.arc
    if arc.result is not ArcResult.PASS or not arc.sealers:
        return ""
    sealer = domain_key(arc.sealers[-1])
    if sealer not in {domain_key(domain) for domain in rules.trusted_sealers}:
        return ""
    results = parse_results(arc.authentication_results.encode())
    author = verdicts.dmarc.author_domain
    for result in results.results if results else ():
        if (result.method, result.result) == ("dmarc", "pass") and domain_key(result.get("header", "from")) == author:
            return sealer
    return ""


def _is_within(name: str, domain: str) -> bool:
    name = domain_key(name.removesuffix("."))
    return name == domain or name.endswith(f".{domain}")


def _shown(domain: str) -> str:
    """A domain, fit for a reply."""
    return _UNFIT.sub("?", domain[:255]) or "(none)"
