"""The queue: durable until done. INTERNALS: its states, the one instant a message becomes ours, what a crash leaves.

THE INSTANT. A message is ours from the commit of the transaction that holds its envelope, its recipients and its
content, all together and synced (SQLite: WAL and synchronous=FULL; PostgreSQL: synchronous_commit=on). 250
is written after that commit returned, never before. Before it the message is its client's; a commit whose
outcome nobody knows is answered 451, and the message may then be there twice.

THE STATES are a recipient's (`states.py` has the table of moves):

    WAITING -- claim --> ACTIVE -- delivered ------------------------------> DONE
       ^                   |------ final (failed, or success to report) ---> REPORT -- reported --> DONE
       |-- deferred -------|------ stranded (nobody to tell), poison ------> HELD -- release --> WAITING
       |-- return, lapse --'                                                   '---- drop -----> DONE

Every move is one transaction. The last DONE of a message deletes it in the same transaction. A report is
inserted in the transaction that moves its recipients to DONE: it exists exactly once.

WHAT A CRASH LEAVES, and who repairs it (`kill -9`, power cut; one test a row in tests/queue/test_crash_table.py):

    killed                                   what is there                       repaired by
    before the commit of a new message       nothing; its client had no 250      the client's retry
    behind it, before the 250                WAITING; the client may send it     nobody: may_duplicate=client
                                             again, as a mail of its own
    WAITING                                  as it was                           nobody needs to
    ACTIVE, before our final dot             ACTIVE, one crash counted           `lapse`: WAITING at once, later
                                                                                 after the second crash, HELD after
                                                                                 `queue.crashes` of them
    ACTIVE, behind our final dot             the same; the hop may have it       the same: may_duplicate=crash
    after the hop's 250, before the commit   the same; the hop has it            the same: may_duplicate=crash
    REPORT, before the report's commit       REPORT                              the reporter builds it again
    behind it                                DONE, and the report is WAITING     nobody needs to
    HELD                                     as it was                           an operator
    amid a transaction                       what was before it: SQLite rolls    the next to open the file
                                             back, PostgreSQL too

WHO HOLDS WHAT. An ACTIVE recipient is claimed by an owner (one worker process), under a lease that the owner
renews and with a token that its settling must show: a worker that was frozen past its lease finds the token
changed, and what it did is a duplicate that both logs explain (may_duplicate=lease). On SQLite one supervisor
holds the lock of the file and its workers claim rows in it; when it starts, whatever is ACTIVE belongs to the
dead. On PostgreSQL many relays share the tables; leases run by the clock of the database.

THE PARTS, in the order of a message's way: `states` and `entry` (words), `schema` and `rows` (tables), `operations`,
`reports`, `reading` and `selection` (all SQL, of the pieces in `statements`), `engine` (what runs it), `sqlite` and
`postgres` (engines), `lock` and `disk` (of the file), `group_commit`, `store` (all of it, for its users), `schedule`
and `destination` (pure: when, and how many at once), `spool` (how much at once), `burst` (new mail first), `worker` and
`attempt`, `bounce` and `delivery_status` (pure: the report's text) and `reporter`, `control` and `commands` (an
operator's).
"""
