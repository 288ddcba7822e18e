"""Who may hand over mail, as whom, and for whom. Deny is the default; allow needs a network, a login
or a recipient domain of ours. Pure: facts in, a refusal or None out.

STANDARDS  RFC 5321 §3.6.2, §7.9 (relaying only for those entitled), §4.5.1 (Postmaster);
           RFC 6409 §6.1 (submission: the sender must be the client's own).
TRUSTS     the parsed address and nothing inside a local part: it never routes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from relay.accept.login import may_send_as
from relay.address import Address
from relay.config.models import Listener, Role
from relay.envelope import Client
from relay.reply import AUTHOR_NOT_YOURS, LOGIN_FIRST, NO_RELAY, SENDER_NOT_YOURS, Reply

_ROUTES = re.compile("[%!@]")


def refuse_sender(
    listener: Listener, client: Client, reverse_path: Address | None, senders: Sequence[str], *, can_log_in: bool
) -> Reply | None:
    """The refusal of a MAIL command, or None.

    senders:    what the client may send as (`senders_of`). can_log_in: logins are offered here.
    """
    if listener.role is not Role.SUBMISSION:
        return None
    if client.login is None and not _is_allowed(listener, client):
        return LOGIN_FIRST if can_log_in else NO_RELAY
    return None if may_send_as(senders, reverse_path) else SENDER_NOT_YOURS


def refuse_recipient(listener: Listener, recipient: Address) -> Reply | None:
    """The refusal of a RCPT command, or None: a gateway takes mail for its own domains only."""
    if listener.role is not Role.GATEWAY or not recipient.domain:
        return None
    if recipient.domain_key not in listener.domains:
        return NO_RELAY
    # A next hop might route `user%elsewhere@ours`, `elsewhere!user@ours` or `"user@elsewhere"@ours` onwards.
    return NO_RELAY if _ROUTES.search(recipient.local) else None


def refuse_author(author: Address, senders: Sequence[str]) -> Reply | None:
    """The refusal of a submitted message for its From address, or None."""
    return None if may_send_as(senders, author) else AUTHOR_NOT_YOURS


def _is_allowed(listener: Listener, client: Client) -> bool:
    # An IPv4 client on an IPv6 socket is an IPv4 client.
    ip = getattr(client.ip, "ipv4_mapped", None) or client.ip
    return any(ip in network for network in listener.allow)
