"""Postfix of our own: queue on a RAM disk, queue on disk, or as proxy before the queue, with milters for the task.

One instance is a folder with its configuration, queue, log and sockets. It is set up for speed, not stock: as
many processes as clients, no brake on its input (in_flow_delay), next-hop connections kept, deliveries begun 20
at once. Signing is OpenDKIM's; the gateway is policyd-spf, OpenDKIM and OpenDMARC, as Debian's guides have it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench.network import HOST, NETWORK
from bench.peers.milters import opendkim_signer, opendkim_verifier, opendmarc, policyd_spf
from bench.peers.peer import LeftOut, Peer, Running, Task, Work
from tests.support.peers import free_port, listens, require, running, wait_until

HOSTNAME = "mail.example.com"
RAM = Path("/dev/shm")

_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = {hostname}
mydestination =
alias_maps =
alias_database =
inet_protocols = ipv4
mynetworks = {mynetworks}
relay_domains = example.com
relay_transport = smtp:[127.0.0.1]:{sink}
message_size_limit = 50000000
default_process_limit = {processes}
in_flow_delay = 0
initial_destination_concurrency = 20
smtp_connection_cache_destinations = [127.0.0.1]:{sink}
smtp_dns_support_level = disabled
smtpd_peername_lookup = {peername}
smtpd_client_connection_count_limit = 0
smtpd_recipient_restrictions = {recipients}
policyd-spf_time_limit = 3600
smtpd_milters = {milters}
milter_default_action = tempfail
smtpd_proxy_filter = {proxy}
tls_random_source = dev:/dev/urandom
{tls}
"""
_TLS = """\
smtpd_tls_security_level = may
smtpd_tls_chain_files = {key}, {chain}
smtp_tls_security_level = encrypt
"""
_MASTER = """\
{host}:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
smtp unix - - n - - smtp
postlog unix-dgram n - n - 1 postlogd
"""


@contextmanager
def _running(task: Task, folder: Path, *, ram: bool = False, proxy: bool = False) -> Iterator[Running]:
    if proxy and task.work is not Work.PLAIN:
        raise LeftOut("milters do not see what a proxy before the queue passes on")
    if proxy and (task.queue or task.tls):
        raise LeftOut("a proxy before the queue has no queue, and no TLS to the next hop")
    postfix, postconf = require("postfix", "postfix"), require("postconf", "postfix")
    daemons = subprocess.run([postconf, "-dh", "daemon_directory"], capture_output=True, check=True, text=True)
    with ExitStack() as stack:
        if ram:
            folder = RAM / f"relay-bench-{folder.name}-{task.sink}"
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        milters, pids = _milters(task, folder, stack)
        port = free_port()
        conf = folder / "conf"
        for name in ("conf", "queue", "data"):
            (folder / name).mkdir()
        shutil.chown(folder / "data", "postfix")
        (conf / "main.cf").write_text(_main(task, folder, milters, proxy))
        (conf / "master.cf").write_text(_MASTER.format(host=HOST, port=port) + _policy_service(task, folder))
        # `check` makes the queue's folders and gives them their owners.
        subprocess.run([postfix, "-c", str(conf), "check"], check=True, capture_output=True)
        command = [f"{daemons.stdout.strip()}/master", "-c", str(conf), "-d"]
        process = stack.enter_context(running(command, log=folder / "log", ports=[]))
        wait_until("Postfix listens", lambda: listens(port, HOST))
        yield Running(port, (process.pid, *pids), folder / "log")


def _main(task: Task, folder: Path, milters: Sequence[str], proxy: bool) -> str:
    gateway = task.work is Work.GATEWAY
    certificates = task.site.certificates
    return _MAIN.format(
        folder=folder,
        hostname=HOSTNAME,
        mynetworks="127.0.0.0/8" if gateway else f"127.0.0.0/8, {NETWORK}",
        sink=task.sink,
        processes=task.connections + 50,
        peername="yes" if gateway else "no",  # what Authentication-Results and SPF macros name
        recipients="reject_unauth_destination" + (", check_policy_service unix:private/policyd-spf" if gateway else ""),
        milters=", ".join(milters),
        proxy=f"127.0.0.1:{task.sink}" if proxy else "",
        tls=_TLS.format(key=certificates.key, chain=certificates.chain) if task.tls else "",
    )


def _milters(task: Task, folder: Path, stack: ExitStack) -> tuple[list[str], list[int]]:
    """The sockets and the processes of the milters that the task needs."""
    starts = {
        Work.PLAIN: [],
        Work.SIGN: [opendkim_signer(task.site, folder)],
        Work.GATEWAY: [opendkim_verifier(folder, HOSTNAME), opendmarc(folder, HOSTNAME)],
    }[task.work]
    started = [stack.enter_context(start) for start in starts]
    return [f"unix:{milter.socket}" for milter in started], [milter.pid for milter in started]


def _policy_service(task: Task, folder: Path) -> str:
    if task.work is not Work.GATEWAY:
        return ""
    return f"policyd-spf unix - n n - 0 spawn user=nobody argv={' '.join(policyd_spf(folder))}\n"


postfix_ram = Peer("Postfix, queue on RAM disk", partial(_running, ram=True))
postfix_disk = Peer("Postfix, queue on disk", _running)
postfix_proxy = Peer("Postfix, before-queue proxy", partial(_running, proxy=True))
