"""The 30 checks of the reliability bar, and the table of what they came to: `make bench-reliability`.

`checks.py` has the table of checks. One that needs minutes, kills or a disk of its own is a module here with
`async def run(quick: bool) -> Found`; the others are tests of `make test`, run once more and counted. `--quick` takes
the short forms.
"""
