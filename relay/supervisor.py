"""The supervisor's side of the workers: starts them, starts them anew, reloads all or none, ends them.

To `App` it is what listeners are to a relay of one process (`accept/listener.py`). Each worker is a fresh
interpreter (`worker.py`) at the other end of a socketpair; whatever else it holds ends with it.

A worker that ends unasked loses its own sessions, as a relay of one process would lose all. What it had claimed of
the queue is free at once, and another takes its place, later and later if it does not live long. One that is silent
for HUNG seconds is ended: its loop hangs.

On a reload all prepare; only if none refuses do they go by the new configuration.

When they are to stop, no deadline kills a worker that still answers: it waits for what is behind a final dot, and
to end it would duplicate that mail. If the supervisor dies, its workers notice and drain; they inherit its lock of
the queue, so that the next one begins when the last of them has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.accept.listener import Generation
from relay.accept.login import Logins
from relay.accept.ports import reserve
from relay.accept.service import Stages
from relay.clock import Clock
from relay.config.models import Config
from relay.errors import ConfigError, Problem
from relay.fact import Fact, Record
from relay.link import Link, LinkLost
from relay.orders import Abandon, Begin, Commit, Count, Drain, Prepare, Ready
from relay.part import Part
from relay.shared import Memory
from relay.telling import Note
from relay.watch.totals import Families, lasting, total

START = 60.0  # seconds for a worker to take mail, or to prepare another configuration
PING = 5.0  # seconds between two questions, which are about its metrics
HUNG = 30.0  # seconds without an answer
SCRAPE = 2.0  # seconds that the page of metrics waits for a worker
LONG = 60.0  # seconds: who lived longer is started anew at once
FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0  # seconds until the next start of one who did not
NOTES = 10_000  # kept for workers that start later


@dataclass(eq=False, slots=True)
class _Worker:
    """One process. owner: of its claims in the queue. counted: its metrics, as it last told them."""

    number: int
    process: asyncio.subprocess.Process
    link: Link
    owner: str | None = None
    counted: Families = ()
    is_ready: bool = False
    cause: str = ""  # why we ended it, or it could not begin


_Place = tuple[str, int, str]  # host and port as configured, and the listener's name where any port will do


@dataclass(eq=False, slots=True)
class Prepared:
    """A configuration that no worker goes by yet. given: for them, with real ports. new: places it reserved."""

    config: Config
    given: Config
    places: dict[_Place, list[socket.socket]]
    new: list[_Place] = field(default_factory=list)
    workers: list[_Worker] = field(default_factory=list)


class Workers:
    """free: frees the claims of a dead owner. inherited: descriptors for every worker."""

    def __init__(
        self,
        config: Config,
        part: Part,
        clock: Clock,
        record: Record,
        free: Callable[[str], Awaitable[None]],
        inherited: Callable[[], Sequence[int]],
    ) -> None:
        self._config, self._count, self._clock, self._record = config, part.count, clock, record
        self._telling, self._free, self._inherited = part.telling, free, inherited
        part.telling.send = self.send
        self._memory = Memory(part.count)
        self._places: dict[_Place, list[socket.socket]] = {}
        self._given = config
        self._workers: dict[int, _Worker] = {}
        self._gone: Families = ()  # what those that ended had counted
        self._notes: deque[Note] = deque(maxlen=NOTES)
        self._changing = asyncio.Lock()  # a worker starts, or all reload
        self._stopping = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self.addresses: dict[str, tuple[str, int]] = {}

    @property
    def is_ready(self) -> bool:
        """All of them take mail."""
        return len(self._workers) == self._count and all(one.is_ready for one in self._workers.values())

    async def start(self) -> None:
        """Start all; they take mail. Raises ConfigError, or LinkLost if one ends before it does."""
        self._put_in_force(self._reserve(self._config))
        loop = asyncio.get_running_loop()
        begun: list[asyncio.Future[None]] = [loop.create_future() for _ in range(self._count)]
        for number, future in enumerate(begun, 1):
            self._keepers.append(asyncio.create_task(self._keep(number, future), name=f"worker {number}"))
        results = await asyncio.gather(*begun, return_exceptions=True)
        problems: dict[Problem, None] = {}
        for result in results:
            if isinstance(result, ConfigError):
                problems |= dict.fromkeys(result.problems)
            elif isinstance(result, BaseException):
                raise result
        if problems:
            raise ConfigError(*problems)

    async def prepare(self, config: Config, stages: Stages, logins: Logins | None) -> Prepared:
        """Have every worker make what `config` needs. Raises ConfigError, and nothing has changed."""
        await self._changing.acquire()
        try:
            prepared = self._reserve(config)
        except BaseException:
            self._changing.release()
            raise
        try:
            prepared.workers = [one for one in self._workers.values() if one.is_ready]
            asked = (one.link.ask(Prepare(prepared.given), START) for one in prepared.workers)
            problems: dict[Problem, None] = {}
            for worker, answer in zip(
                prepared.workers, await asyncio.gather(*asked, return_exceptions=True), strict=True
            ):
                if isinstance(answer, ConfigError):
                    problems |= dict.fromkeys(answer.problems)
                elif isinstance(answer, (LinkLost, TimeoutError)):
                    text = f"worker {worker.number} cannot prepare it: {answer or 'it is silent'}"
                    problems[Problem("", "", text)] = None
                elif isinstance(answer, BaseException):
                    raise answer
            if problems:
                raise ConfigError(*problems)
        except BaseException:
            await self.abandon(prepared)
            raise
        return prepared

    async def abandon(self, prepared: Prepared) -> None:
        """All stays as it is."""
        try:
            asked = (one.link.ask(Abandon(), START) for one in prepared.workers)
            await asyncio.gather(*asked, return_exceptions=True)
            _close(prepared.places[place] for place in prepared.new)
        finally:
            self._changing.release()

    async def commit(self, prepared: Prepared) -> Generation:
        """All go by it. Whoever cannot is ended, and starts anew with it."""
        try:
            self._put_in_force(prepared)
            answers = await asyncio.gather(
                *(one.link.ask(Commit(), START) for one in prepared.workers), return_exceptions=True
            )
            for worker, answer in zip(prepared.workers, answers, strict=True):
                if isinstance(answer, BaseException):
                    self._kill(worker, f"it did not change its configuration: {answer}")
        finally:
            self._changing.release()
        return Generation(())

    async def drain(self, seconds: float) -> None:
        """Every worker finishes what is in flight, and ends; `seconds` it knows from its configuration."""
        self._stopping.set()
        for worker in self._workers.values():
            worker.link.tell(Drain())
        if self._keepers:
            await asyncio.wait(self._keepers)
        self._memory.close()
        self._release([*self._places])

    def kill(self) -> None:
        """End all at once."""
        for worker in self._workers.values():
            self._kill(worker, "a second signal")

    async def families(self) -> list[Families]:
        """The metrics of all, also of those that have gone."""
        workers = [*self._workers.values()]
        await asyncio.gather(*(self._count_of(one) for one in workers))
        return [self._gone, *(one.counted for one in workers)]

    def send(self, note: Note, teller: _Worker | None = None) -> None:
        """Tell all others."""
        if note.lasts:
            self._notes.append(note)
        for worker in self._workers.values():
            if worker is not teller:
                worker.link.tell(note)

    # --- one worker ------------------------------------------------------------------------------

    async def _keep(self, number: int, begun: asyncio.Future[None]) -> None:
        """Have a worker of that number until we stop. begun: the first one takes mail, or cannot."""
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            since = self._clock.monotonic()
            values = await self._live(number, begun)
            is_last = self._stopping.is_set() or begun.exception() is not None
            if not is_last:
                pause = FIRST_PAUSE if self._clock.monotonic() - since > LONG else pause
                values["retry_seconds"] = pause
            level = "info" if values.get("code") == 0 else "error"  # 0: it was told to, by us or by SIGTERM
            self._record(Fact("supervisor.worker_ended", "", values, level))
            if is_last:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(LAST_PAUSE, pause * 2)

    async def _live(self, number: int, begun: asyncio.Future[None]) -> dict[str, object]:
        """One worker, from its start to its end; what to tell of that."""
        try:
            worker = await self._spawn(number)
        except OSError as error:  # no memory, no process
            _settle(begun, LinkLost(f"no worker can be started: {error}"))
            return {"worker": number, "cause": str(error)}
        try:
            await self._begin(worker)
            _settle(begun)
        except ConfigError as error:
            worker.cause = str(error)
            worker.link.tell(Drain())
            _settle(begun, error)
        except (LinkLost, TimeoutError) as error:
            self._kill(worker, str(error) or "it did not begin in time")
            _settle(begun, LinkLost(f"worker {number} cannot begin: {worker.cause}"))
        await self._ended(worker)
        code = worker.process.returncode or 0
        values: dict[str, object] = {"worker": number, "process": worker.process.pid}
        values |= {"signal": signal.Signals(-code).name} if code < 0 else {"code": code}
        return {**values, "cause": worker.cause} if worker.cause else values

    async def _spawn(self, number: int) -> _Worker:
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "relay.worker", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), self._memory.descriptor, *self._inherited()),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        link = Link(_answer_nothing, lambda message: self._hear(worker, message), lambda: None)
        worker = _Worker(number, process, link)
        await link.open(ours)
        return worker

    async def _begin(self, worker: _Worker) -> None:
        """Raises ConfigError, LinkLost or TimeoutError."""
        async with self._changing:
            self._workers[worker.number] = worker
            for note in self._notes:
                worker.link.tell(note)
            order = Begin(self._given, worker.number, self._count, self._memory.descriptor)
            ready: Ready = await worker.link.ask(order, START)
            worker.owner, worker.is_ready = ready.owner, True
        if self._stopping.is_set():
            worker.link.tell(Drain())
        self._record(Fact("supervisor.worker_started", "", {"worker": worker.number, "process": worker.process.pid}))

    async def _ended(self, worker: _Worker) -> None:
        """Wait for its end, and clear up behind it."""
        watching = asyncio.create_task(self._watch(worker))
        await worker.process.wait()
        worker.is_ready = False
        self._workers.pop(worker.number, None)
        await _cancelled(watching)
        worker.link.close()
        self._memory.clear(worker.number)
        self._gone = total((self._gone, lasting(worker.counted)))
        if worker.owner is not None:
            await self._free(worker.owner)

    async def _watch(self, worker: _Worker) -> None:
        """End it when it hangs, be it on its way out."""
        cause = f"it was silent for {HUNG:g} s"
        try:
            while True:
                await self._clock.sleep(PING)
                worker.counted = await worker.link.ask(Count(), HUNG)
        except LinkLost:
            cause = "it did not end"
            await self._clock.sleep(HUNG)
        except TimeoutError:
            pass
        self._kill(worker, cause)

    async def _count_of(self, worker: _Worker) -> None:
        """Ask for its metrics; of one that is silent, or ends, those of a few seconds ago are the best there are."""
        with contextlib.suppress(LinkLost, TimeoutError):
            worker.counted = await worker.link.ask(Count(), SCRAPE)

    def _hear(self, worker: _Worker, note: Note) -> None:
        self.send(note, worker)
        self._telling.hear(note)

    def _kill(self, worker: _Worker, cause: str) -> None:
        worker.cause = worker.cause or cause
        with contextlib.suppress(ProcessLookupError):
            worker.process.kill()

    # --- ports -----------------------------------------------------------------------------------

    def _reserve(self, config: Config) -> Prepared:
        """Hold the places that are not held yet. Raises ConfigError with every one that is in use."""
        prepared = Prepared(config, config, {})
        problems: list[Problem] = []
        listeners = {}
        for name, settings in config.listener.items():
            place = (settings.host, settings.port, "" if settings.port else name)
            try:
                held = self._places.get(place) or reserve(name, settings.host, settings.port)
            except ConfigError as error:
                problems += error.problems
                continue
            if place not in self._places:
                prepared.new.append(place)
            prepared.places[place] = held
            listeners[name] = settings.model_copy(update={"port": held[0].getsockname()[1]})
        if problems:
            _close(prepared.places[place] for place in prepared.new)
            raise ConfigError(*problems)
        prepared.given = config.model_copy(update={"listener": listeners})
        return prepared

    def _put_in_force(self, prepared: Prepared) -> None:
        gone = [place for place in self._places if place not in prepared.places]
        self._release(gone)
        self._places, self._given = prepared.places, prepared.given
        self.addresses = {
            name: prepared.places[settings.host, settings.port, "" if settings.port else name][0].getsockname()[:2]
            for name, settings in prepared.config.listener.items()
        }

    def _release(self, places: Sequence[_Place]) -> None:
        _close(self._places.pop(place) for place in places)


async def _answer_nothing(message: Any) -> None:
    """A worker asks nothing."""


def _settle(begun: asyncio.Future[None], error: Exception | None = None) -> None:
    if begun.done():
        return
    if error is None:
        begun.set_result(None)
    else:
        begun.set_exception(error)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _close(held: Iterable[list[socket.socket]]) -> None:
    for sockets in held:
        for one in sockets:
            one.close()
