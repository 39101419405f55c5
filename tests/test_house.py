"""The structure that docs/architecture.md describes: imports point one way, folders have a docstring, files stay short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.settings.settings import ROOT

# A folder imports only from floors below its own. The road ends with launch and box; what is above it are wings.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("words",),  # the modules directly in nanolan/
    ("settings",),
    ("net", "code", "checkpoint"),
    ("shadeform", "identity", "model", "trainers"),
    ("hub", "train"),
    ("run",),
    ("cost", "notify"),
    ("launch", "box"),
    ("cli",),
    ("status", "train_here"),
    ("manage", "report", "doctor", "export"),
    ("sim",),
    ("gpu_check",),
)
ROAD = {name for floor in FLOORS[:9] for name in floor}
WINGS = {name for floor in FLOORS[9:] for name in floor} | {"identity"}
WORDS_OF_THEIR_OWN = {"identity", "notify", "train_here"}  # single modules with a floor
MOST_FILES = 12
MOST_LINES = 350
MOST_FUNCTION_LINES = 60
MOST_TEST_LINES = 400
# Longer than that today, and not to grow: split them, then take the row away
LONG = {
    "cloud/rescue.py": 600,
}
FILES = sorted(p for p in (ROOT / "nanolan").rglob("*.py"))


def folder_of(module: str) -> str:
    """The room of `nanolan.a.b.c`: "a", or "words" for a module directly in nanolan/."""
    parts = module.split(".")[1:]
    single = len(parts) < 2 and (ROOT / "nanolan" / f"{parts[0] if parts else ''}.py").exists()
    if single and parts[0] not in WORDS_OF_THEIR_OWN:
        return "words"
    return parts[0] if parts else "words"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, lazily or not."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (
                f"{node.module}.{a.name}"
                if (ROOT / node.module.replace(".", "/") / f"{a.name}.py").exists()
                else node.module
                for a in node.names
            )
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


def test_every_folder_has_a_floor() -> None:
    rooms = {folder_of(module_of(p)) for p in FILES if p.name != "__init__.py"}
    assert rooms == {name for floor in FLOORS for name in floor}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_to_lower_floors(path: Path) -> None:
    height = {name: n for n, floor in enumerate(FLOORS) for name in floor}
    mine = folder_of(module_of(path))
    for name in imports(path):
        assert name.split(".")[0] not in ("scripts", "tests", "cloud"), f"imports {name}"
        if name.startswith("nanolan.") and (room := folder_of(name)) != mine:
            assert height[room] < height[mine], f"{mine} imports {name} of the floor above"


def test_commands_of_the_laptop_import_nothing_of_box() -> None:
    """What both sides need (requests, postmortem.json) lives in run/; train_here runs the box's trainer."""
    for path in FILES:
        if folder_of(module_of(path)) in ("status", "manage", "report", "doctor", "launch"):
            assert not [n for n in imports(path) if n.startswith("nanolan.box")], path


def test_no_two_modules_import_each_other() -> None:
    """No circle at all: modules that nothing is left to import are taken away until none remains."""
    names = {module_of(p) for p in FILES if p.name != "__init__.py"}
    needs = {
        module_of(p): names & set(imports(p)) - {module_of(p)}
        for p in FILES
        if p.name != "__init__.py"
    }
    while free := [m for m, needed in needs.items() if not needed & needs.keys()]:
        for m in free:
            del needs[m]
    assert not needs, f"a circle among {sorted(needs)}"


def test_every_folder_says_what_lives_there_and_nothing_else() -> None:
    for path in FILES:
        if path.name == "__init__.py":
            body = ast.parse(path.read_text()).body
            assert len(body) == 1 and ast.get_docstring(ast.parse(path.read_text())), path


def test_folders_hold_a_dozen_modules_at_most() -> None:
    count = defaultdict[Path, int](int)
    for path in FILES:
        count[path.parent] += path.name != "__init__.py"
    assert {f.name: n for f, n in count.items() if n > MOST_FILES} == {}


def lengths(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, lines, most) of a file and its functions."""
    text, name = path.read_text(), str(path.relative_to(ROOT))
    yield name, len(text.splitlines()), MOST_LINES
    for node in ast.walk(ast.parse(text)):
        # the trainer's own loops read from top to bottom
        loop = "nanolan/train" in name and getattr(node, "name", "") in ("prepare", "train")
        if isinstance(node, ast.FunctionDef) and node.end_lineno and not loop:
            yield f"{name} {node.name}", node.end_lineno - node.lineno + 1, MOST_FUNCTION_LINES


def test_files_and_functions_are_short() -> None:
    paths = [*FILES, *(ROOT / "scripts").glob("*.py"), *(ROOT / "cloud").glob("*.py")]
    found = {name: lines for p in paths for name, lines, most in lengths(p) if lines > most}
    grown = {name: lines for name, lines in found.items() if lines > LONG.get(name, 0)}
    assert not grown, "longer than the rule allows"
    assert not LONG.keys() - found.keys(), "short by now: take these rows out of LONG"


LONG_TESTS = {  # one table, one state machine, or one list of laws
    "tests/fuzz/running.py": 569,
    "tests/promises/test_faults.py": 551,
    "tests/support/life_laws.py": 467,
    "tests/promises/test_life.py": 417,
}


def test_test_files_are_short() -> None:
    files = (ROOT / "tests").rglob("*.py")
    count = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in files}
    found = {name: lines for name, lines in count.items() if lines > MOST_TEST_LINES}
    grown = {name: lines for name, lines in found.items() if lines > LONG_TESTS.get(name, 0)}
    assert not grown, "longer than the rule allows"
    assert not LONG_TESTS.keys() - found.keys(), "short by now: take these rows out of LONG_TESTS"


def test_absence_is_never_concluded_from_a_glob() -> None:
    """Path.glob hides that a folder cannot be read (Python 3.12 and newer): nanolan/files.py has `entries_of`."""
    allowed = {  # what an unreadable folder means there is checked elsewhere, or only counts bytes
        "nanolan/box/machine_check.py",
        "nanolan/box/sandbox.py",
        "nanolan/doctor/leftovers.py",
        "nanolan/hub/download.py",
        "nanolan/hub/upload_set.py",
        "nanolan/net/errors.py",
        "nanolan/train/data/mixtures.py",
        "nanolan/train/evaluation/humaneval.py",
    }
    used = {
        str(p.relative_to(ROOT))
        for p in FILES
        if "nanolan/sim" not in str(p) and re.search(r"\.r?glob\(", p.read_text())
    }
    assert used == allowed


# These run in the interpreter of a foreign checkout, which has torch; nothing of nanolan imports them
INSIDE = sorted((ROOT / "nanolan/trainers/inside").glob("*.py"))


def test_only_model_and_train_import_torch() -> None:
    for path in [*FILES, *(ROOT / "scripts").glob("*.py"), *(ROOT / "cloud").glob("*.py")]:
        if folder_of(module_of(path)) not in ("model", "train") and path not in INSIDE:
            assert "torch" not in {name.split(".")[0] for name in imports(path)}, path


def test_files_for_a_checkout_need_only_torch() -> None:
    for path in INSIDE:
        needed = {n.split(".")[0] for n in imports(path)}
        assert needed <= sys.stdlib_module_names | {"torch"}, path


HEAVY = {
    "torch",
    "wandb",
    "requests",
    "numpy",
    "huggingface_hub",
    "httpx2",
    "msgspec",
    "psutil",
    "dotenv",
}


@pytest.mark.parametrize(
    "script",
    sorted(
        p.stem
        for p in (ROOT / "scripts").glob("*.py")
        if p.stem
        not in (
            "chat",
            "market",
            "notify",
            "outside_venv",
            "rehearse_faults",
            "sim",
            "train_here",
        )
    ),
)
def test_help_imports_nothing_heavy(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / f"scripts/{script}.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {
        line.rsplit("|", 1)[-1].strip().split(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert not loaded & HEAVY
    assert "click" in loaded
