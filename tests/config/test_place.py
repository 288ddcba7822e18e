"""The line of a key, as an editor would count it."""

import pytest

from relay.config.place import Places

TEXT = '''\
hostname = "relay.example.org"   # 1
route.all.hop = "mailbox"

[listener.submission] # 4
"role" = "submission"
senders = [
  "port = 1",
  "[listener.trap]",
]
note = """
port = 2
[hop.trap]
"""
port = 2525  # 14

[ hop . "mail box" ]
'host' = ["mail.example.net"]

[delay]
greeting = { gateway = "2s" }
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("hostname", 1),
        ("route.all.hop", 2),
        ("route.all", 2),
        ("listener", 4),
        ("listener.submission", 4),
        ("listener.submission.role", 5),
        ("listener.submission.senders", 6),
        ("listener.submission.port", 14),
        ("listener.submission.tls", 0),
        ("hop.mail box.host", 17),
        ("hop.trap", 0),  # only in a string
        ("delay.greeting", 20),
        ("delay.greeting.gateway", 0),  # in its parent's line
        ("timeout.dns", 0),
    ],
)
def test_line(key: str, line: int) -> None:
    assert Places(TEXT).line(tuple(key.split("."))) == line
