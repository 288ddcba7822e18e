"""One relay at a time for a queue in a file: `flock` on a file beside it, which the kernel drops with its processes.

Workers inherit the descriptor: where their supervisor died, the lock is theirs until the last of them has ended.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from relay.errors import ConfigError, Problem

FILE_NAME = "queue.lock"  # in the data folder


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
