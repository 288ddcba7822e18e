"""Durations, sizes, workers: what is read, what is refused, and that printing loses nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.units import parse_duration, parse_size, parse_workers, print_duration, print_size, print_workers

NUMBERS = st.from_regex(r"\A(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?\Z")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("25s", 25.0),
        ("25 s", 25.0),
        ("5 min", 300.0),
        ("1.5 h", 5400.0),
        ("5 d", 432000.0),
        ("250ms", 0.25),
        ("0s", 0.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "octets"),
    [("25 MiB", 26_214_400), ("500 B", 500), ("64KiB", 65_536), ("1 GB", 1_000_000_000), ("1.5 kB", 1500)],
)
def test_sizes(text: str, octets: int) -> None:
    assert parse_size(text) == octets


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            "25",
            "s",
            "25S",
            "25 sec",
            "-1s",
            "+1s",
            "1e3s",
            "25  s",
            " 25s",
            "25s ",
            "25s\n",
            "٣s",
            "1.s",
            ".5s",
            "1_0s",
        ],
        *["9" * 400 + "s", "9" * 18 + "GiB", "9" * 18 + "d", 25, 25.0, True, None, ["25s"]],
    ],
)
def test_what_is_no_quantity(text: object) -> None:
    for parse in (parse_duration, parse_size):
        with pytest.raises(ValueError, match="write a"):
            parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (0.2, "200ms"), (1.5, "1.5s"), (90.0, "90s"), (300.0, "5 min"), (7200.0, "2 h"), (86400.0, "1 d")],
)
def test_a_duration_is_printed_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert print_duration(seconds) == text


@given(NUMBERS, st.sampled_from(["ms", "s", "min", "h", "d"]))
def test_a_printed_duration_reads_back(number: str, unit: str) -> None:
    seconds = parse_duration(f"{number} {unit}")
    assert parse_duration(print_duration(seconds)) == seconds


@given(NUMBERS, st.sampled_from(["B", "KiB", "MiB", "GiB", "kB", "MB", "GB"]))
def test_a_printed_size_reads_back(number: str, unit: str) -> None:
    try:
        octets = parse_size(f"{number} {unit}")
    except ValueError:
        assert float(number) > 9e8  # GiB: an exbibyte
        return
    assert parse_size(print_size(octets)) == octets


@pytest.mark.parametrize(
    ("given", "number"), [(1, 1), (2, 2), ("2", 2), ("256", 256), (256, 256), ("auto", 0)]
)  # text comes from the environment
def test_workers(given: object, number: int) -> None:
    assert parse_workers(given) == number
    assert parse_workers(print_workers(number)) == number


@pytest.mark.parametrize("given", [0, -1, 257, True, 2.0, "0", "+2", "2 ", "two", "", "\u0662", None, "9" * 5000])
def test_what_is_no_number_of_workers(given: object) -> None:
    with pytest.raises(ValueError, match='write "auto" or a number from 1 to 256'):
        parse_workers(given)
