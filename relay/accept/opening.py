"""Before the first command: whether a client may be here, who it is behind a load balancer, and the 220.

STANDARDS  RFC 5321 §3.1, §4.3.1 (a client waits for the greeting), PROXY protocol (`proxy.py`).
TRUSTS     a PROXY header from the listener's `proxy_from` only.
FAILS      HangUp with the reply, or without one where no reply could be read.
"""

from __future__ import annotations

from relay import reply as replies
from relay.accept import proxy
from relay.accept.channel import HangUp, deaf
from relay.accept.counts import Holder
from relay.accept.limits import holder, is_in
from relay.accept.upload import Upload
from relay.config.models import EarlyTalker
from relay.reply import Reply


class Opening(Upload):
    """What comes before a session's commands."""

    _holder: Holder | None = None  # whom this connection is counted for

    def _turn_away(self) -> tuple[Reply | None, str]:
        """The reply to a connection that may not be, and why it may not; "" for one that may."""
        service = self.service
        if service.is_draining:
            return replies.SHUTTING_DOWN, "draining"
        if service.settings.proxy_from:
            if not is_in(self.session.ip, service.settings.proxy_from):
                return None, "not a load balancer"
        elif refusal := self._hold():
            return refusal, "limit"
        refusal = service.load.enter()
        return refusal, "limit" if refusal else ""

    def _hold(self) -> Reply | None:
        """Count the connection for its client's address, once that is known."""
        service, ip = self.service, self.session.ip
        if not service.is_gateway or service.load.is_exempt(ip):
            return None
        who = holder(ip)
        refusal = service.load.hold(who)
        if refusal is None:
            self._holder = who
        return refusal

    async def _learn_client(self) -> bool:
        """Read the load balancer's header. False: it only looked whether the port is open."""
        until = self.loop.time() + self.service.config.timeout.proxy
        try:
            while not (size := proxy.length(self._buffer)):
                if self._is_at_end and not self._buffer:
                    return False
                if self._is_at_end or self.loop.time() >= until or not await self.wait(until):
                    raise HangUp(None, "no PROXY header", lingers=False)
            header = await proxy.parse(bytes(self._buffer[:size]))
        except proxy.MalformedHeader as error:
            self.session.note("proxy", {"fault": str(error), "peer": self.session.address}, "warning")
            raise HangUp(None, "bad PROXY header", lingers=False) from error
        del self._buffer[:size]
        session = self.session
        if header.ip is not None:
            if proxy.is_impossible(header.ip, self.service.is_own):
                session.note("proxy", {"fault": f"source {header.ip}", "peer": session.address}, "warning")
                raise HangUp(None, "impossible client", lingers=False)
            session.note("proxy", {"ip": str(header.ip), "port": header.port, "peer": session.address}, "debug")
            session.came_from(header.ip, header.port)
        session.is_known = header.ip is not None or header.is_own
        if header.ip is not None and (refusal := self._hold()):
            raise HangUp(refusal, "limit", lingers=False)
        return True

    async def _greet(self) -> bool:
        """The 220, after the greeting delay. A client that speaks before it does not read replies."""
        delay = self.service.config.delay
        seconds = delay.greeting.get(self.service.name, 0.0)
        if seconds and not is_in(self.session.ip, delay.skip) and self.service.load.lie_down():
            until = self.loop.time() + seconds
            try:
                if self._buffer or await self.wait(until):
                    if self._is_at_end and not self._buffer:
                        return False
                    if delay.early_talker is EarlyTalker.REFUSE:
                        raise HangUp(replies.EARLY_TALKER, "early talker")
                    self.session.note("early_talker", {"ip": self.session.address})
                    await self.wait(until, deaf)
            finally:
                self.service.load.get_up()
        self.say(self.service.greeting)
        return True

    def _note_refused(self, reply: Reply | None, why: str) -> None:
        values = {"reply": str(reply or ""), "why": why, "listener": self.service.name, "ip": self.session.address}
        self.session.note("refused", values)
