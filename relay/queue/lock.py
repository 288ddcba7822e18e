"""One relay at a time for a queue in a file: `flock` on a file beside it, which the kernel drops with its processes.

Workers inherit the descriptor: where their supervisor died, the lock is theirs until the last of them has ended.
They take turns at writing, by `flock` on the folder of the file.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from relay.errors import ConfigError, Problem

FILE_NAME = "queue.lock"  # in the data folder
POLL = 0.001  # seconds between two looks at whose turn it is


class Lock:
    """A context manager. The file stays, since another process may have it open; it holds the process id."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises ConfigError where another process has it, or where there can be no such file."""
        if self._descriptor is not None:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(Problem(str(self.path), "", f"the queue cannot be locked: {error}")) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, b"%d\n" % os.getpid())
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            text = f"another relay (process {holder}) uses this queue"
            raise ConfigError(Problem(str(self.path), "", text)) from None
        except OSError as error:
            os.close(descriptor)
            raise ConfigError(Problem(str(self.path), "", f"the queue cannot be locked: {error}")) from error
        self._descriptor = descriptor

    @property
    def descriptor(self) -> int | None:
        """For workers to inherit, while it is held."""
        return self._descriptor

    def is_orphaned(self) -> bool:
        """Whoever took the lock is dead: his workers have it, and are about to end."""
        try:
            holder = int(self.path.read_text("ascii"))
            os.kill(holder, 0)
        except ProcessLookupError:
            return True
        except (OSError, ValueError):  # another user's process is alive too
            pass
        return False

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Turn:
    """A context manager, for a thread that may wait: only one process at a time is in it.

    SQLite has a lock of its own and needs no other; but it looks at that after up to 100 ms, when the commit that it
    waited for has long ended. So nothing is wrong where there is no turn to be had: not in `patience` seconds, or
    without a folder.
    """

    def __init__(self, folder: Path, patience: float) -> None:
        self._folder, self._patience = folder, patience
        self._descriptor: int | None = None

    def __enter__(self) -> None:
        with suppress(OSError):
            if self._descriptor is None:
                self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for _ in range(round(self._patience / POLL)):
                try:
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    time.sleep(POLL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
