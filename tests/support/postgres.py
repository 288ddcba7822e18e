"""PostgreSQL servers of our own on loopback: each in a folder of its own, with fsync on, ended by pid.

The folder is in memory, unless a bench asks for the disk: what a power cut leaves is not what is tested here.

The server is a child of the test and no daemon. What the tests do to it is what happens to servers: an immediate
stop (as `kill -9` of all its processes, but for the shared memory that it leaves behind), connections that are
terminated, a standby that takes over.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.certificates import Certificates
from tests.support.peers import PATIENCE, free_port, missing, wait_until
from tests.support.processes import children

PASSWORD = "postgres-canary-Vx7q"
DATABASE = "relay"
STANDBY = "standby"  # the name by which the primary knows it

_PACKAGE = "postgresql"
_USER = ("postgres", "postgres")
_SETTINGS = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{folder}'
max_connections = 60
shared_buffers = 32MB
log_min_duration_statement = -1
log_line_prefix = '%m %p %a '
wal_keep_size = 128MB
restart_after_crash = on
"""
_ACCESS = """\
local all all trust
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""


class Postgres:
    """A server that runs in `folder`, its superuser called `relay`. url: without parameters."""

    def __init__(self, binaries: Path, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self._binaries = binaries
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://relay:{PASSWORD}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Returns once it takes connections."""
        with (self.folder / "log").open("ab") as output:
            self._process = process = self._run("postgres", "-D", str(self.folder / "data"), output=output)

        def up() -> bool:
            assert process.poll() is None, f"PostgreSQL ended at once:\n{self.log}"
            answer = subprocess.run(
                [self._binaries / "pg_isready", "-q", "-h", str(self.folder), "-p", str(self.port)], check=False
            )
            return answer.returncode == 0

        wait_until("PostgreSQL takes connections", up)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: in order, and at once. SIGQUIT: "immediate", nothing is written any more."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def crash(self) -> None:
        """What `pg_ctl stop -m immediate` does: the next start recovers from the log."""
        self.stop(signal.SIGQUIT)

    def signal_all(self, *, stop: bool) -> None:
        """Freeze the server and all its processes, or let them go on: it is silent, and closes nothing."""
        assert self._process is not None
        parent = self._process.pid
        for one in (parent, *children(parent)):
            os.kill(one, signal.SIGSTOP if stop else signal.SIGCONT)

    def promote(self) -> None:
        """The standby becomes a primary; returns once it takes writes."""
        self.sql("SELECT pg_promote(true)", database="postgres")
        wait_until("the standby takes writes", lambda: self.sql("SELECT pg_is_in_recovery()") == "f")

    def sql(self, statement: str, database: str = DATABASE) -> str:
        """Run a statement; its answer as psql prints it, without headings."""
        command = [self._binaries / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", str(self.folder)]
        command += ["-p", str(self.port), "-U", "relay", "-d", database, "-c", statement]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert answer.returncode == 0, f"{statement}\n{answer.stderr}"
        return answer.stdout.strip()

    def terminate_connections(self) -> int:
        """End every relay's connection, as an administrator does; how many there were."""
        return int(
            self.sql(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'relay'",
                database="postgres",
            )
        )

    def new_database(self) -> str:
        """Make an empty one; its url."""
        name = f"relay-{secrets.token_hex(4)}"
        self.sql(f'CREATE DATABASE "{name}"', database="postgres")
        return self.url.removesuffix(DATABASE) + name

    def configure(self, **settings: str) -> None:
        """Change settings that need no restart; returns once they hold for new sessions."""
        for name, value in settings.items():
            self.sql(f"ALTER SYSTEM SET {name} = '{value}'", database="postgres")
        self.sql("SELECT pg_reload_conf()", database="postgres")
        for name, value in settings.items():
            wait_until(f"{name} is {value!r}", lambda name=name, value=value: self.sql(f"SHOW {name}") == value)  # type: ignore[misc]

    def _run(self, program: str, *arguments: str, output: object = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._binaries / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,  # type: ignore[call-overload]
            stderr=output,
            cwd=self.folder,
            **_user(),
        )


@contextmanager
def running_postgres(certificates: Certificates | None = None, *, on_disk: bool = False) -> Iterator[Postgres]:
    """Start one with an empty database, end it with the block. With certificates it offers TLS."""
    binaries = _binaries()
    with _folder("postgres", on_disk) as folder:
        server = Postgres(binaries, folder, free_port())
        secret = folder / "password"
        secret.write_text(PASSWORD)
        initdb = ["initdb", "-D", str(folder / "data"), "-U", "relay", "--pwfile", str(secret), "--no-sync"]
        _finish(server, *initdb, "-E", "UTF8", "--locale", "C", "-A", "scram-sha-256")
        data = folder / "data"
        settings = _SETTINGS.format(port=server.port, folder=folder)
        if certificates is not None:
            for name, path in {"server.crt": certificates.chain, "server.key": certificates.key}.items():
                shutil.copy(path, data / name)
                (data / name).chmod(0o600)
                if os.geteuid() == 0:
                    shutil.chown(data / name, *_USER)
            settings += "ssl = on\n"
        with (data / "postgresql.conf").open("a") as file:
            file.write(settings)
        (data / "pg_hba.conf").write_text(_ACCESS)
        server.start()
        try:
            server.sql(f"CREATE DATABASE {DATABASE}", database="postgres")
            yield server
        finally:
            server.stop()


@contextmanager
def running_standby(primary: Postgres, *, on_disk: bool = False) -> Iterator[Postgres]:
    """Start a synchronous standby of `primary`: from then on a commit there waits until it is synced here."""
    with _folder("standby", on_disk) as folder:
        server = Postgres(_binaries(), folder, free_port())
        origin = f"host=127.0.0.1 port={primary.port} user=relay password={PASSWORD} application_name={STANDBY}"
        copy = ["pg_basebackup", "-D", str(folder / "data"), "-R", "-X", "stream", "-c", "fast", "--no-sync"]
        _finish(server, *copy, "-d", origin)
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS.format(port=server.port, folder=folder))
        server.start()
        try:
            primary.configure(synchronous_standby_names=STANDBY)
            wait_until(
                "the standby is synchronous",
                lambda: primary.sql("SELECT sync_state FROM pg_stat_replication", database="postgres") == "sync",
            )
            yield server
        finally:
            server.stop()


@contextmanager
def _folder(name: str, on_disk: bool) -> Iterator[Path]:
    """One that is the server's own."""
    memory = Path("/dev/shm")
    parent = None if on_disk or not os.access(memory, os.W_OK) else memory
    folder = Path(tempfile.mkdtemp(prefix=f"relay-{name}-", dir=parent))
    if os.geteuid() == 0:
        shutil.chown(folder, *_USER)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path:
    """Where the newest server's programs are. Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    program = shutil.which("postgres")
    if program is None:
        missing(f"postgres is not installed: apt install {_PACKAGE}")
    assert program is not None
    return Path(program).resolve().parent


def _user() -> dict[str, object]:
    """The server refuses to run as root."""
    return {"user": _USER[0], "group": _USER[1], "extra_groups": []} if os.geteuid() == 0 else {}


def _finish(server: Postgres, *command: str) -> None:
    log = server.folder / "setup"
    with log.open("wb") as output:
        process = server._run(command[0], *command[1:], output=output)
        assert process.wait(PATIENCE) == 0, log.read_text(errors="replace")
