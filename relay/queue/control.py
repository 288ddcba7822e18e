"""The operator's socket: `relay queue` talks to a running relay through it.

One request a connection: a line of JSON, answered with a line of JSON (`commands.py` has the words). Behind the
answer to `source` come as many octets as it says. `{"error": …}` says why nothing came of it.

TRUSTS     whoever can open the socket, and that is the relay's own user and root: mode 0600 in the data folder.
FAILS      a socket that cannot be made is a ConfigError. A client that is silent, talks nonsense or goes away
           hears an error or nothing; what it asked for before is done.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from relay.errors import ConfigError, Problem, RelayError
from relay.fact import Fact, Record
from relay.queue.commands import Answer, BadRequest, Commands
from relay.queue.engine import NotKept

SOCKET = "relay.sock"  # in the data folder
MAX_REQUEST = 4 * 1024 * 1024  # octets: what a command line can hold
SILENCE = 60.0  # seconds for a request to arrive, and for a piece of the answer to leave
PATIENCE = 600.0  # seconds that a client waits: to drop 100,000 messages takes a while
CHUNK = 256 * 1024  # octets
_MAX_ADDRESS = 107  # octets of a path in sockaddr_un, unix(7)


class ControlError(RelayError):
    """The relay answered that it cannot, or not at all; `str()` says why."""


class Control:
    """The relay's end. path: of the socket; its folder is made with mode 0700 if it is missing."""

    def __init__(self, path: Path, commands: Commands, record: Record) -> None:
        self._path, self._commands, self._record = path, commands, record
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. What a relay that was killed left there is removed. Raises ConfigError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _address(self._path) as name:
                if _is_answered(name):
                    raise ConfigError(Problem(str(self._path), "", "another relay listens there"))
                self._path.unlink(missing_ok=True)
                os.fchmod(listener.fileno(), 0o600)  # before it has a name: unix(7), and no moment in between
                listener.bind(name)
            self._server = await asyncio.start_unix_server(self._on_client, sock=listener, limit=MAX_REQUEST)
        except OSError as error:
            listener.close()
            problem = f"the socket for `relay queue` cannot be made: {error.strerror or error}"
            raise ConfigError(Problem(str(self._path), "", problem)) from error
        except BaseException:
            listener.close()
            raise

    async def stop(self) -> None:
        """Take no more requests; those under way hear nothing, and what they have handed over is done."""
        if self._server is None:
            return
        server, self._server = self._server, None
        self._path.unlink(missing_ok=True)
        server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await server.wait_closed()

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._server is None:
            writer.close()
            return
        self._clients.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError):
            pass  # it went away
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(SILENCE):
                line = await reader.readline()
            answer = await self._answer(line)
        except ValueError:  # longer than the reader's limit
            answer = _error("the request is too long")
        writer.write(json.dumps(answer.values).encode() + b"\n")
        content = memoryview(answer.content or b"")
        for at in range(0, max(1, len(content)), CHUNK):
            writer.write(content[at : at + CHUNK])
            async with asyncio.timeout(SILENCE):
                await writer.drain()

    async def _answer(self, line: bytes) -> Answer:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                return _error("the request is no JSON object")
        except (ValueError, RecursionError):
            return _error("the request is no JSON")
        try:
            return await self._commands.answer(request)
        except BadRequest as error:
            return _error(str(error))
        except NotKept as error:  # a lock, a full disk, a database that is gone
            self._record(Fact("queue.trouble", "", {"cause": f"control: {error}"}, "error"))
            return _error(str(error))
        except Exception as error:  # a bug of ours
            cause = f"{type(error).__name__}: {error}"
            values = {"cause": f"control: {cause}", "traceback": traceback.format_exc()}
            self._record(Fact("queue.trouble", "", values, "error"))
            return _error(cause)


def ask(path: Path, request: Mapping[str, object], patience: float = PATIENCE) -> Answer | None:
    """What the relay that listens at `path` answers; None if none does. For other processes: it blocks.

    patience: seconds that the relay may be silent. Raises ControlError.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(patience)
        try:
            with _address(path) as name:
                client.connect(name)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise ControlError(f"{path}: {error.strerror or error}") from error
        try:
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile("rb") as answers:
                return _read(answers)
        except TimeoutError:
            raise ControlError(f"the relay at {path} has not answered for {patience:g} s") from None
        except OSError as error:
            raise ControlError(f"{path}: {error.strerror or error}") from error


def _read(answers: BinaryIO) -> Answer:
    """Raises ControlError."""
    try:
        values = json.loads(answers.readline())
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ControlError("the relay ended before it answered: see with `relay queue list` what it has done")
    if "error" in values:
        raise ControlError(str(values["error"]))
    size = values.get("size")
    if not isinstance(size, int):
        return Answer(values)
    content = answers.read(size)
    if len(content) < size:
        raise ControlError("the relay ended amid its answer")
    return Answer(values, content)


def _error(text: str) -> Answer:
    return Answer({"error": text})


def _is_answered(name: str) -> bool:
    """Somebody takes connections there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, suppress(OSError):
        client.setblocking(False)
        client.connect(name)
        return True
    return False


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """A name for the socket at `path` that fits into an address: a long one goes by way of its open folder."""
    if len(os.fsencode(path)) <= _MAX_ADDRESS:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
