"""What becomes of a message: rules and verdicts in, one decision out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relay.config.policy import Action, Policy, Rules
from relay.decide.policy import decide, difference, is_skipped
from relay.verdict import (
    ArcResult,
    ArcVerdict,
    Disposition,
    DkimResult,
    DmarcResult,
    DmarcVerdict,
    IprevResult,
    IprevVerdict,
    SpfResult,
    SpfVerdict,
    Verdicts,
)
from tests.support.verdicts import PLAIN, signed, verdicts


def dmarc(result: str, disposition: str = "none", **more: Any) -> DmarcVerdict:
    domain = "example.org"
    return DmarcVerdict(DmarcResult(result), domain, domain, domain, Disposition(disposition), **more)


FAIL_REJECT = dmarc("fail", "reject")
FAIL_QUARANTINE = dmarc("fail", "quarantine")


@pytest.mark.parametrize(
    ("found", "action", "rule"),
    [
        # the defaults
        (PLAIN, "accept", ""),
        (verdicts(spf="pass", helo="pass", dmarc=dmarc("pass", "reject"), dkim=[signed("example.org")]), "accept", ""),
        # RFC 9989 §7.4: p=reject alone refuses nothing, and is taken for p=quarantine
        (verdicts(dmarc=FAIL_REJECT), "quarantine", "policy.dmarc.quarantine"),
        (verdicts(dmarc=FAIL_QUARANTINE), "quarantine", "policy.dmarc.quarantine"),
        # RFC 9989 §5.4: p=none changes nothing
        (verdicts(dmarc=dmarc("fail")), "accept", ""),
        # RFC 9989 §7.1: an SPF fail alone refuses nothing, and nothing at all when DMARC passed
        (verdicts(spf="fail"), "mark", "policy.spf.fail"),
        (verdicts(spf="fail", dmarc=dmarc("pass", "reject")), "accept", ""),
        (
            verdicts(spf="softfail", helo="fail", iprev="fail", arc="fail", dkim=[signed("a.example", "fail")]),
            "accept",
            "",
        ),
        # temporary trouble
        (
            verdicts(
                spf="temperror",
                helo="temperror",
                dmarc="temperror",
                iprev="temperror",
                dkim=[signed("a.example", "temperror")],
            ),
            "accept",
            "",
        ),
        (verdicts(spf="permerror", helo="permerror", iprev="permerror"), "accept", ""),
        # not one author domain
        (verdicts(dmarc=DmarcVerdict(DmarcResult.PERMERROR, problem="2 From fields")), "refuse", "policy.author"),
    ],
)
def test_by_default(found: Verdicts, action: str, rule: str) -> None:
    decision = decide("m1", found, Policy())
    assert (decision.action, decision.rule) == (action, rule)


@pytest.mark.parametrize(
    ("rules", "found", "action", "reply"),
    [
        (
            {"dmarc": {"reject": True}},
            verdicts(dmarc=FAIL_REJECT),
            "refuse",
            "550 5.7.26 DMARC fail, policy of example.org is reject [m1]",
        ),
        ({"dmarc": {"reject": True}}, verdicts(dmarc=FAIL_QUARANTINE), "quarantine", ""),
        ({"dmarc": {"reject": True}}, verdicts(dmarc=dmarc("fail", "quarantine", testing=True)), "quarantine", ""),
        ({"dmarc": {"reject": True}}, verdicts(dmarc=dmarc("fail")), "accept", ""),
        ({"dmarc": {"quarantine": "mark"}}, verdicts(dmarc=FAIL_REJECT), "mark", ""),
        ({"dmarc": {"quarantine": "accept"}}, verdicts(dmarc=FAIL_REJECT), "accept", ""),
        (
            {"dmarc": {"temperror": "defer"}},
            verdicts(dmarc="temperror"),
            "defer",
            "451 4.7.26 DMARC temperror for example.org [m1]",
        ),
        ({"dmarc": {"none": "mark"}}, PLAIN, "mark", ""),
        # RFC 7372 §3
        ({"spf": {"fail": "refuse"}}, verdicts(spf="fail"), "refuse", "550 5.7.23 SPF fail for example.org [m1]"),
        ({"spf": {"fail": "refuse"}}, verdicts(spf="fail", dmarc=dmarc("pass")), "accept", ""),
        (
            {"spf": {"permerror": "refuse"}},
            verdicts(spf="permerror"),
            "refuse",
            "550 5.7.24 SPF permerror for example.org [m1]",
        ),
        (
            {"spf": {"temperror": "defer"}},
            verdicts(spf="temperror"),
            "defer",
            "451 4.7.24 SPF temperror for example.org [m1]",
        ),
        (
            {"helo": {"fail": "refuse"}},
            verdicts(helo="fail", dmarc=dmarc("pass")),
            "refuse",
            "550 5.7.23 SPF of HELO fail for client.example.org [m1]",
        ),
        ({"dkim": {"none": "refuse"}}, PLAIN, "refuse", "550 5.7.20 DKIM none [m1]"),
        ({"dkim": {"none": "refuse"}}, verdicts(dkim=[signed("a.example")]), "accept", ""),
        ({"dkim": {"fail": "refuse"}}, verdicts(dkim=[signed("a.example", "fail"), signed("b.example")]), "accept", ""),
        (
            {"dkim": {"fail": "refuse"}},
            verdicts(dkim=[signed("a.example", "permerror"), signed("b.example", "fail")]),
            "refuse",
            "550 5.7.20 DKIM fail [m1]",
        ),
        (
            {"dkim": {"fail": "refuse"}},
            verdicts(dkim=[signed("a.example", "fail"), signed("b.example", "temperror")]),
            "accept",
            "",
        ),
        (
            {"dkim": {"policy": "refuse"}},
            verdicts(dkim=[signed("a.example", "policy")]),
            "refuse",
            "550 5.7.21 DKIM policy [m1]",
        ),
        ({"iprev": {"fail": "refuse"}}, verdicts(iprev="fail"), "refuse", "550 5.7.25 reverse DNS fail [m1]"),
        ({"arc": {"fail": "defer"}}, verdicts(arc="fail"), "defer", "451 4.7.29 ARC fail [m1]"),
        # several at once: the harshest, and one code for them
        (
            {"iprev": {"fail": "defer"}, "spf": {"fail": "refuse"}},
            verdicts(iprev="fail", spf="fail"),
            "refuse",
            "550 5.7.23 SPF fail for example.org [m1]",
        ),
        (
            {"iprev": {"fail": "refuse"}, "spf": {"fail": "refuse"}},
            verdicts(iprev="fail", spf="fail"),
            "refuse",
            "550 5.7.26 SPF fail for example.org; reverse DNS fail [m1]",
        ),
        # From
        ({"author": "tag"}, verdicts(dmarc=DmarcVerdict(DmarcResult.PERMERROR, problem="2 From fields")), "accept", ""),
        (
            {"author": "strict"},
            verdicts(dmarc=DmarcVerdict(DmarcResult.PERMERROR, problem="2 From fields")),
            "refuse",
            "550 5.6.0 2 From fields [m1]",
        ),
    ],
)
def test_by_rule(rules: dict[str, Any], found: Verdicts, action: str, reply: str) -> None:
    decision = decide("m1", found, Policy.model_validate(rules))
    assert decision.action == action
    assert str(decision.reply or "") == reply


def test_monitoring_does_nothing_and_tells_what_it_would() -> None:
    policy = Policy.model_validate({"mode": "monitor", "spf": {"fail": "refuse"}})
    decision = decide("m1", verdicts(spf="fail"), policy)
    assert (decision.action, decision.applied, decision.monitored) == ("refuse", "accept", True)
    assert decide("m1", PLAIN, policy).monitored is False


def test_a_shadow_policy_is_compared() -> None:
    live = decide("m1", verdicts(spf="fail"), Policy())
    assert difference(live, decide("m1", verdicts(spf="fail"), Rules())) == ""
    shadow = Rules.model_validate({"spf": {"fail": "refuse"}})
    assert difference(live, decide("m1", verdicts(spf="fail"), shadow)) == "mark to refuse"


@pytest.mark.parametrize(
    ("ip", "skipped"), [("192.0.2.9", True), ("::ffff:192.0.2.9", True), ("198.51.100.1", False), ("2001:db8::1", True)]
)
def test_networks_that_are_not_checked(ip: str, skipped: bool) -> None:
    policy = Policy.model_validate({"skip": ["192.0.2.0/24", "2001:db8::/32"]})
    assert is_skipped(ip_address(ip), policy) is skipped
    assert decide("m1", None, policy).rule == "policy.skip"


# --- who forwards -------------------------------------------------------------------------------

REFUSE = {"dmarc": {"reject": True}, "spf": {"fail": "refuse"}}
FORWARDED = verdicts(
    spf="fail",
    dmarc=FAIL_REJECT,
    dkim=[signed("list.example"), signed("bad.example", "fail")],
    iprev=IprevVerdict(IprevResult.PASS, ip_address("192.0.2.1"), "out.list.example"),
)


@pytest.mark.parametrize(
    ("forwarder", "trusted"),
    [
        ({"name": ["list.example"]}, True),
        ({"name": ["out.list.example"]}, True),
        ({"name": ["t.example", "LIST.example"]}, True),
        ({"name": ["ist.example"]}, False),
        ({"network": ["192.0.2.0/24"]}, True),
        ({"network": ["198.51.100.0/24"]}, False),
        ({"dkim": ["list.example"]}, True),
        ({"dkim": ["bad.example"]}, False),  # it did not verify
        ({"dkim": ["out.list.example"]}, False),
        # all that is given must hold; nothing given is nobody
        ({"network": ["192.0.2.0/24"], "dkim": ["list.example"], "name": ["list.example"]}, True),
        ({"network": ["192.0.2.0/24"], "dkim": ["other.example"]}, False),
        ({}, False),
    ],
)
def test_a_trusted_forwarder(forwarder: dict[str, Any], trusted: bool) -> None:
    decision = decide("m1", FORWARDED, Policy.model_validate({**REFUSE, "forwarder": {"list": forwarder}}))
    if trusted:
        assert (decision.action, decision.rule) == ("accept", "policy.forwarder.list")
        assert decision.override == "trusted_forwarder"  # RFC 9990 §3.1.1.4
    else:
        assert decision.action == "refuse"


def test_a_reverse_name_that_is_not_confirmed_is_no_forwarder() -> None:
    rules = Policy.model_validate({**REFUSE, "forwarder": {"list": {"name": ["list.example"]}}})
    unconfirmed = replace(FORWARDED, iprev=replace(FORWARDED.iprev, result=IprevResult.FAIL))
    assert decide("m1", unconfirmed, rules).action == "refuse"


def test_a_forwarder_excuses_what_forwarding_breaks_and_nothing_else() -> None:
    forwarder = {"list": {"dkim": ["list.example"]}}
    rules = Policy.model_validate({**REFUSE, "helo": {"fail": "refuse"}, "forwarder": forwarder})
    assert (
        decide("m1", replace(FORWARDED, helo=SpfVerdict(SpfResult.FAIL, "x.example", "helo")), rules).rule
        == "policy.helo.fail"
    )
    confused = replace(FORWARDED, dmarc=DmarcVerdict(DmarcResult.PERMERROR, problem="2 From fields"))
    assert decide("m1", confused, rules).rule == "policy.author"
    assert decide("m1", verdicts(dkim=[signed("list.example")]), rules).override == ""


SEALED = "mx.list.example; spf=pass smtp.mailfrom=a.example; dmarc=pass header.from=example.org"


@pytest.mark.parametrize(
    ("arc", "trusted"),
    [
        (ArcVerdict(ArcResult.PASS, ("list.example",), 0, "", True, SEALED), True),
        (ArcVerdict(ArcResult.PASS, ("evil.example", "LIST.example"), 0, "", True, SEALED), True),
        # the newest seal counts, and a chain that holds, from one we trust
        (ArcVerdict(ArcResult.PASS, ("list.example", "evil.example"), 0, "", True, SEALED), False),
        (ArcVerdict(ArcResult.FAIL, ("list.example",), 0, "", True, SEALED), False),
        (ArcVerdict(ArcResult.PASS, (), 0, "", True, SEALED), False),
        # and only when it found what we ask it about
        (ArcVerdict(ArcResult.PASS, ("list.example",), 0, "", True, ""), False),
        (ArcVerdict(ArcResult.PASS, ("list.example",), 0, "", True, "mx.list.example; none"), False),
        (ArcVerdict(ArcResult.PASS, ("list.example",), 0, "", True, SEALED.replace("dmarc=pass", "dmarc=fail")), False),
        (
            ArcVerdict(ArcResult.PASS, ("list.example",), 0, "", True, SEALED.replace("example.org", "evil.example")),
            False,
        ),
        (ArcVerdict(ArcResult.PASS, ("list.example",), 0, "", True, SEALED.replace("; spf", '; x="; spf')), False),
        (
            ArcVerdict(
                ArcResult.PASS, ("list.example",), 0, "", True, "mx; spf=pass (dmarc=pass header.from=example.org)"
            ),
            False,
        ),
    ],
)
def test_a_trusted_seal(arc: ArcVerdict, trusted: bool) -> None:
    rules = Policy.model_validate({**REFUSE, "trusted_sealers": ["list.example"]})
    decision = decide("m1", replace(FORWARDED, arc=arc), rules)
    assert (decision.action, decision.rule) == (
        ("accept", "policy.trusted_sealers") if trusted else ("refuse", "policy.dmarc.reject")
    )
    assert decision.override == ("local_policy" if trusted else "")


@pytest.mark.parametrize(
    ("found", "rules", "override"),
    [
        (FAIL_REJECT, {"dmarc": {"reject": True}}, ""),
        (FAIL_REJECT, {}, "local_policy"),
        (FAIL_QUARANTINE, {}, ""),
        (FAIL_QUARANTINE, {"dmarc": {"quarantine": "accept"}}, "local_policy"),
        (dmarc("fail"), {}, ""),
        (dmarc("fail", "quarantine", testing=True), {}, "policy_test_mode"),
        (dmarc("fail", "none", testing=True), {}, "policy_test_mode"),
        (dmarc("pass", "reject"), {}, ""),
    ],
)
def test_why_the_domains_policy_was_not_followed(found: DmarcVerdict, rules: dict[str, Any], override: str) -> None:
    assert decide("m1", verdicts(dmarc=found), Policy.model_validate(rules)).override == override


# --- what holds for all rules -------------------------------------------------------------------


@pytest.mark.parametrize("table", ["spf", "helo", "dkim", "dmarc", "iprev", "arc"])
def test_temporary_trouble_cannot_be_refused(table: str) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({table: {"fail" if table == "arc" else "temperror": "refuse"}})


ACTION = st.sampled_from([action.value for action in Action])
SOFT = st.sampled_from([action.value for action in Action if action is not Action.REFUSE])
SPF = st.fixed_dictionaries(
    dict.fromkeys(("none", "neutral", "softfail", "fail", "permerror"), ACTION) | {"temperror": SOFT}
)
RULES = st.fixed_dictionaries(
    {
        "author": st.sampled_from(["strict", "tag"]),
        "spf": SPF,
        "helo": SPF,
        "dkim": st.fixed_dictionaries(
            dict.fromkeys(("none", "fail", "policy", "neutral", "permerror"), ACTION) | {"temperror": SOFT}
        ),
        "dmarc": st.fixed_dictionaries(
            {"reject": st.booleans(), "quarantine": ACTION, "none": ACTION, "temperror": SOFT}
        ),
        "arc": st.fixed_dictionaries({"fail": SOFT}),
        "iprev": st.fixed_dictionaries({"fail": ACTION, "permerror": ACTION, "temperror": SOFT}),
    }
).map(Policy.model_validate)
FOUND = st.builds(
    verdicts,
    spf=st.sampled_from([one.value for one in SpfResult]),
    helo=st.sampled_from([one.value for one in SpfResult]),
    dkim=st.lists(
        st.sampled_from([one.value for one in DkimResult]).map(lambda result: signed("a.example", result)), max_size=3
    ),
    arc=st.sampled_from([one.value for one in ArcResult]),
    dmarc=st.builds(
        dmarc, st.sampled_from([one.value for one in DmarcResult]), st.sampled_from([one.value for one in Disposition])
    ),
    iprev=st.sampled_from([one.value for one in IprevResult]),
)


@given(FOUND, RULES)
def test_a_decision_is_whole(found: Verdicts, rules: Policy) -> None:
    decision = decide("m1", found, rules)
    assert decision == decide("m1", found, rules)
    if decision.action is Action.REFUSE:
        assert decision.reply is not None
        assert decision.reply.is_permanent
    elif decision.action is Action.DEFER:
        assert decision.reply is not None
        assert decision.reply.is_temporary
    else:
        assert decision.reply is None
    if decision.reply:
        assert decision.reply.text.endswith(" [m1]")
        assert decision.reply.wire().count(b"\r\n") == 1
    assert bool(decision.rule) == (decision.action is not Action.ACCEPT)


@given(RULES)
def test_temporary_trouble_alone_is_never_a_refusal(rules: Policy) -> None:
    """Promise 3; ARC has no word for it (RFC 8617 §5.2.1)."""
    trouble = verdicts(
        spf="temperror",
        helo="temperror",
        dmarc="temperror",
        iprev="temperror",
        arc="fail",
        dkim=[signed("a.example", "temperror")],
    )
    assert decide("m1", trouble, rules).action is not Action.REFUSE


@given(RULES)
def test_p_none_changes_nothing(rules: Policy) -> None:
    """RFC 9989 §5.4: as if the domain had failed without a policy that asks for anything."""
    lenient = rules.model_copy(
        update={"dmarc": rules.dmarc.model_copy(update={"quarantine": Action.REFUSE, "reject": True})}
    )
    failed = verdicts(dmarc=dmarc("fail"))
    assert decide("m1", failed, lenient).action is decide("m1", failed, rules).action


@given(st.text(max_size=300))
def test_no_domain_makes_a_line_of_the_reply(domain: str) -> None:
    found = verdicts(spf=SpfVerdict(SpfResult.FAIL, domain), dmarc=replace(FAIL_REJECT, author_domain=domain))
    decision = decide("m1", found, Policy.model_validate(REFUSE))
    assert decision.reply is not None
    assert decision.reply.wire().count(b"\n") == 1
    assert decision.reply.text.isprintable()
