"""What shows each check of the bar, and where it falls short of it or is scaled."""

from __future__ import annotations

from typing import NamedTuple


class Check(NamedTuple):
    """title: what is done. tests: files of `make test` that show it, or its short form. scaled: "" for as asked.

    Where `bench/reliability/<name>.py` exists it is run; otherwise the tests are.
    """

    title: str
    tests: tuple[str, ...]
    scaled: str = ""


CHECKS = {
    "R1": Check(
        "crash ledger: kill -9 amid submissions, a hostile next hop",
        ("tests/peers/test_queue_crash.py", "tests/flows/test_queue_ledger.py"),
        "first_retry 200 ms, max_retry 2 s; the 5xx come at RCPT and at the dot; queue.crashes 50, "
        "so that none is held for the many kills it was in",
    ),
    "R2": Check(
        "the same with PostgreSQL and three relays",
        (
            "tests/peers/test_queue_postgres.py",
            "tests/queue/test_postgres_store.py",
            "tests/queue/test_postgres_standby.py",
        ),
        "leases of seconds",
    ),
    "R3": Check("a completed fsync between the last write and each 250 (strace)", ("tests/queue/test_sync_order.py",)),
    "R4": Check("power cut: the file's writes replayed, cut, torn and reordered", ("tests/queue/test_power_cut.py",)),
    "R5": Check(
        "killed, raising and cancelled at each named point",
        ("tests/queue/test_crash_table.py", "tests/queue/test_store.py", "tests/accept/test_failures.py"),
        "the points are the rows of INTERNALS, not a hundred",
    ),
    "R6": Check("disk low, disk full, no file may grow", ("tests/queue/test_disk.py",)),
    "R7": Check(
        "database locked, slow, gone",
        ("tests/queue/test_sqlite.py", "tests/queue/test_store.py", "tests/queue/test_postgres_store.py"),
        "PostgreSQL gone: in the tests and in R2",
    ),
    "R8": Check(
        "the client cut at every octet; gone behind its dot",
        ("tests/accept/test_cut.py", "tests/flows/test_queue_gone.py"),
    ),
    "R9": Check("next hop: 8 stages × 9 faults", ("tests/forward/test_faults.py",), "timeouts of milliseconds"),
    "R10": Check(
        "mixed answers at RCPT, DATA, the dot; LMTP for each recipient",
        ("tests/flows/test_queue_settling.py", "tests/flows/test_settlement.py"),
    ),
    "R11": Check(
        "retry schedule, virtual clock, random histories",
        ("tests/queue/test_schedule.py", "tests/queue/test_report_histories.py"),
    ),
    "R12": Check("loops", ("tests/flows/test_queue_loops.py", "tests/peers/test_loops.py")),
    "R13": Check("backscatter", ("tests/flows/test_queue_backscatter.py", "tests/flows/test_recipients.py")),
    "R14": Check("stateful fuzz of SMTP", ("tests/accept/test_stateful.py",)),
    "R15": Check("smuggling in", ("tests/accept/test_smuggling.py", "tests/accept/test_chunks.py")),
    "R16": Check(
        "smuggling out",
        ("tests/peers/test_smuggling_out.py", "tests/forward/test_content.py"),
        "on the proxied way; the queue hands the same octets to the same client",
    ),
    "R17": Check("STARTTLS, both sides", ("tests/accept/test_tls.py", "tests/forward/test_tls.py")),
    "R18": Check("slowloris", ("tests/accept/test_slowloris.py",), "200 bad clients, not 1,000; shorter timeouts"),
    "R19": Check("five times as many clients as there is room for", ("tests/peers/test_overload.py",)),
    "R20": Check("memory bombs", ("tests/accept/test_memory.py",)),
    "R21": Check(
        "CPU bombs",
        ("tests/authenticate/test_dkim_hostile.py", "tests/test_message.py"),
        "work is counted, not timed",
    ),
    "R22": Check(
        "parser fuzz",
        (
            "tests/test_address.py",
            "tests/test_tags.py",
            "tests/test_author.py",
            "tests/accept/test_command.py",
            "tests/accept/test_proxy.py",
            "tests/accept/test_dsn.py",
            "tests/authenticate/test_spf_fuzz.py",
            "tests/authenticate/test_dmarc_record.py",
            "tests/authenticate/test_results_parser.py",
            "tests/config/test_source.py",
        ),
        "hundreds of inputs each, not 50,000",
    ),
    "R23": Check("open relay", ("tests/peers/test_open_relay.py",)),
    "R24": Check(
        "identity confusion, header injection",
        ("tests/authenticate/test_identity_confusion.py", "tests/peers/test_header_injection.py"),
    ),
    "R25": Check("DNS bombs", ("tests/flows/test_gateway_limits.py", "tests/authenticate/test_check.py")),
    "R26": Check(
        "secrets canary",
        ("tests/peers/test_secrets.py",),
        "of the proxied way; nobody but the relay's user can read the queue's file",
    ),
    "R27": Check(
        "AUTH guessing",
        ("tests/accept/test_auth.py", "tests/accept/test_login.py"),
        "hashes are counted, not timed",
    ),
    "R28": Check("web UI", ("tests/watch/test_web.py",), "there is none yet: the health page alone"),
    "R29": Check(
        "bad files, reloads and stops under load",
        ("tests/peers/test_queue_stop.py", "tests/peers/test_reload.py", "tests/config/test_bad_files.py"),
    ),
    "R30": Check(
        "soak",
        ("tests/peers/test_matrix.py",),
        "two minutes; tasks are not seen from outside, threads and descriptors are",
    ),
}
