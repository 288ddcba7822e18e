"""The README says only what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TABLE = README.partition("\n## Standards\n")[2].partition("\n## ")[0]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and "`" in line]


def test_there_is_a_table_of_standards() -> None:
    assert len(ROWS) > 10


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_a_row_of_the_table_names_modules_and_tests_that_exist(row: str) -> None:
    """That they exist, no more: whether they do what the row says is theirs to show."""
    names = re.findall(r"`((?:relay|tests)/[^`]+)`", row)
    assert any(name.startswith("relay/") for name in names)
    assert any(name.startswith("tests/") for name in names)
    assert [name for name in names if not (ROOT / name).is_file()] == []


def test_the_examples_are_the_tested_files() -> None:
    shown = [block.strip() for block in re.findall(r"```toml\n(.*?)```", README, re.DOTALL)]
    tested = [path.read_text().strip() for path in sorted((ROOT / "docs" / "examples").glob("*.toml"))]
    assert shown
    for block in shown:
        assert block in tested
        assert len([line for line in block.splitlines() if line]) <= 15


def test_every_page_that_is_linked_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
