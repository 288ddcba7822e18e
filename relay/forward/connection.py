"""An open connection to a next hop, taken over from aiosmtplib once it is set up.

From here on every octet of the hop goes through our `ReplyReader`, and the hop owes exactly one reply
to each command we write. A reply that is not owed would be taken for the answer to the next
command, and a 250 for the wrong mail is a lost mail: such a connection is never used again.
"""

from __future__ import annotations

import asyncio
import math
import select
from collections import deque
from collections.abc import Mapping

from relay.clock import Clock
from relay.envelope import Client
from relay.forward.replies import HopReply, ReplyReader
from relay.forward.trouble import Fault, Phase, Trouble, refusal


class Connection(asyncio.Protocol):
    """One task uses it at a time.

    host:       as configured. tls: `TLSv1.3`, or "" in plain.
    extensions: EHLO keywords in lower case, with their parameters.
    messages:   transactions completed on it.
    client:     whose it is by its PROXY header; None when there is none, or it names us.
    xclient:    the XCLIENT attributes that were offered to ourselves, `NAME ADDR`.
    introduced: the XCLIENT commands last taken on it.
    closed:     done once the socket is closed, never with an exception.
    """

    def __init__(
        self, transport: asyncio.Transport, clock: Clock, host: str, tls: str, extensions: Mapping[str, str]
    ) -> None:
        self.host, self.tls, self.extensions = host, tls, extensions
        self.messages = 0
        self.client: Client | None = None
        self.xclient = extensions.get("xclient", "")
        self.introduced: tuple[bytes, ...] = ()
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._transport = transport
        self._clock = clock
        self._reader = ReplyReader()
        self._replies: deque[HopReply] = deque()
        self._owed = 0  # replies that we have not taken yet
        self._paused = False
        self._quitting = False
        self._lost = False
        self._waiter: asyncio.Future[None] | None = None
        self._phase = Phase.MAIL  # of the wait
        self._wait_ends = 0.0  # on the loop's clock, as is when the timer fires
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._readable = select.poll()
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        transport.set_protocol(self)

    # --- what the user calls ---

    def send(self, data: bytes, replies: int) -> None:
        """Write commands, or content, to which the hop owes `replies`."""
        self._owed += replies
        self._transport.write(data)

    def arrived(self) -> HopReply | None:
        """The next reply, if it is here already."""
        if not self._replies:
            return None
        self._owed -= 1
        return self._replies.popleft()

    async def reply(self, phase: Phase, seconds: float, until: float) -> HopReply:
        """The next reply. Raises Trouble: CUT, GARBAGE, or SILENT after `seconds`, or at `until` (monotonic)."""
        self._limit(phase, seconds, until)
        while (reply := self.arrived()) is None:
            self._check(phase)
            await self._change(phase)
        return reply

    async def drain(self, phase: Phase, seconds: float, until: float) -> None:
        """Wait until the transport takes more. Raises Trouble as `reply` does, or for a reply that came early."""
        self._check(phase)
        if self._paused:
            self._limit(phase, seconds, until)
            while self._paused:
                await self._change(phase)
                self._check(phase)

    @property
    def owes(self) -> bool:
        """Replies are still to be taken."""
        return self._owed > 0

    @property
    def is_settled(self) -> bool:
        """Open, and no reply to come, as far as the event loop has read."""
        return (
            not self._lost and not self._transport.is_closing() and not self._owed and self._reader.is_between_replies
        )

    @property
    def is_usable(self) -> bool:
        """Fit for another transaction: settled, and nothing waits in the socket.

        The look at the socket sees what the event loop has not read yet: a FIN, a 421, a stray reply.
        """
        return self.is_settled and not self._readable.poll(0)

    def quit(self, within: float) -> None:
        """Take leave (RFC 5321 §4.1.1.10); the hop has `within` seconds to close. See `closed`."""
        if self._quitting or self._transport.is_closing():
            self.abort()
            return
        self._quitting = True
        self._transport.write(b"QUIT\r\n")
        timer = self._loop.call_later(within, self.abort)
        self.closed.add_done_callback(lambda _: timer.cancel())

    def abort(self) -> None:
        """Close now, whatever is still to be written."""
        self._transport.abort()

    # --- what the transport calls ---

    def data_received(self, data: bytes) -> None:
        if self._quitting:  # its 221, or whatever it says instead
            self._transport.close()
            return
        self._replies.extend(self._reader.feed(data))
        if len(self._replies) > self._owed or self._reader.problem:
            self._transport.abort()  # what has been read stands; nothing more is worth reading
        self._wake()

    def eof_received(self) -> None:
        self._lost = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)
        self._wake()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    # --- inside ---

    def _check(self, phase: Phase) -> None:
        if len(self._replies) > self._owed:
            raise refusal(phase, self._replies[-1]) or Trouble(phase, Fault.GARBAGE, "a reply that was not asked for")
        if self._reader.problem:
            raise Trouble(phase, Fault.GARBAGE, self._reader.problem)
        if self._lost or self._transport.is_closing():
            raise Trouble(phase, Fault.CUT, "connection closed")

    def _limit(self, phase: Phase, seconds: float, until: float) -> None:
        """What is waited for next, is waited for no longer than this. Raises Trouble if there is no time at all."""
        left = min(seconds, until - self._clock.monotonic())
        if left <= 0:
            raise Trouble(phase, Fault.SILENT, "no time left")
        self._wait_ends = self._loop.time() + left

    def _change(self, phase: Phase) -> asyncio.Future[None]:
        """Done when something happens on the connection, or failed when nothing did in time."""
        self._phase = phase
        self._waiter = self._loop.create_future()
        if self._wait_ends < self._timer_at:
            self._arm()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _arm(self) -> None:
        """One timer a connection: it is not moved for every wait, it looks when the wait ends as it fires."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._wait_ends
        self._timer = self._loop.call_at(self._timer_at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._wait_ends:
            self._arm()
        else:
            self._waiter.set_exception(Trouble(self._phase, Fault.SILENT, "no answer in time"))
