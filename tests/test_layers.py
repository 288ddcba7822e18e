"""The folder law: the listing is the message's way, and imports only look back."""

import ast
from pathlib import Path

import pytest

RELAY = Path(__file__).parent.parent / "relay"
STAGES = (
    "accept", "authenticate", "decide", "edit", "forward", "inbox", "publish", "queue", "report", "watch",
)  # fmt: skip
WIRING = {"pipeline", "gateway", "submission", "handover", "queueing", "supervisor", "app", "worker", "cli", "__main__"}
MODULES = sorted(RELAY.rglob("*.py"))


def part_of(module: str) -> str:
    """`relay.accept.smtp` belongs to `accept`; `relay.reply` to `reply`."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {part_of(name) for name in names if name.split(".")[0] == "relay"} - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(RELAY)))
def test_imports_only_look_back(path: Path) -> None:
    here = path.relative_to(RELAY).with_suffix("").parts[0]
    if here in WIRING:
        return
    forbidden = WIRING | set(STAGES[STAGES.index(here) + 1 :] if here in STAGES else STAGES)
    assert not imports(path) & forbidden


def test_every_folder_is_a_stage_or_named() -> None:
    folders = {path.name for path in RELAY.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= {*STAGES, "cli", "config"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(RELAY)))
def test_a_module_opens_with_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"
    if path.name == "__init__.py" and path.parent != RELAY:
        assert len(tree.body) == 1, f"{path} holds code; prose only"


def test_the_pipeline_fits_a_screen() -> None:
    assert len((RELAY / "pipeline.py").read_text().splitlines()) <= 160


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(RELAY)))
def test_a_module_holds_one_notion(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 450
