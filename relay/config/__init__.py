"""Configuration, from text to a frozen `Config`.

`units`, `names`   what one value may look like
`models`           what may be set, table by table; `shape` asks them which keys there are
`environment`      RELAY_ variables and the command line as keys
`place`, `explain` where a fault stands, and what it is, in a sentence
`files`, `networks` what a key file, a certificate, a network or a host is
`database`         the url of a PostgreSQL database, taken apart
`finding`          what a check finds
`checks`           what only the whole can be asked; the larger parts of it are `listener_checks`,
                   `domain_checks`, `route_checks`, `hop_checks` and `queue_checks`
`source`           all of these in turn: the one to call
`shipped`          `config.toml`, and any configuration, printed
"""
