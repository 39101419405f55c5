"""The house: imports point one way, the laptop half stays light, files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted((ROOT / "nanolan").glob("*.py"))
# Each room may import only from the rooms before it
ORDER = [
    "times",
    "secret",
    "veil",
    "errors",
    "checkout",
    "secretnames",
    "secretscan",
    "credentials",
    "snapshot",
    "envlines",
    "plainfile",
    "sniff",
    "architecture",
    "paths",
    "money",
    "budget",
    "size",
    "memory",
    "datasets",
    "conversations",
    "parquet",
    "pickles",
    "phases",
    "gate",
    "settingvalues",
    "config",
    "neterrors",
    "session",
    "plan",
    "offers",
    "records",
    "instance",
    "deadline",
    "shadeform",
    "sshkey",
    "hubclient",
    "hubtrouble",
    "hub",
    "inside",
    "manifest",
    "proof",
    "terms",
    "rent",
    "payload",
    "bundle",
    "report",
    "outlook",
    "locks",
    "ledger",
    "presence",
    "costs",
    "measured",
    "forecast",
    "transfer",
    "inputs",
    "identity",
    "basedir",
    "results",
    "ticker",
    "meter",
    "notify",
    "preflight",
    "codecheck",
    "adopt",
    "structure",
    "parcel",
    "upload",
    "pull",
    "create",
    "launch",
    "probation",
    "failover",
    "confine",
    "runner",
    "here",
    "watchdog",
    "timeline",
    "boxlog",
    "herald",
    "gpus",
    "inspection",
    "pace",
    "causes",
    "control",
    "postmortem",
    "machine",
    "saver",
    "training",
    "samples",
    "curves",
    "charts",
    "environment",
    "scores",
    "story",
    "markup",
    "page",
    "card",
    "lastwords",
    "nobody",
    "departure",
    "box",
    "rest",
    "guard",
    "orphans",
    "state",
    "status",
    "ssh",
    "closeup",
    "logs",
    "rebuild",
    "limit",
    "patrol",
    "guardpost",
    "stop",
    "why",
    "resume",
    "view",
    "retell",
    "patient",
    "toolbox",
    "envfile",
    "accounts",
    "leftovers",
    "doctor",
    "menu",
    "helptext",
    "cli",
    "live",
]


def imports(path: Path) -> Iterator[str]:
    """Every nanolan module that a file imports, lazily or not."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] in ("nanolan", "scripts", "cloud")
        ):
            yield node.module if node.module != "nanolan" else f"nanolan.{node.names[0].name}"
        elif isinstance(node, ast.Import):
            yield from (
                a.name
                for a in node.names
                if a.name.split(".")[0] in ("nanolan", "scripts", "cloud", "torch")
            )


def test_every_room_has_its_place_in_the_order() -> None:
    assert {p.stem for p in CORE} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("path", [p for p in CORE if p.stem != "__init__"], ids=lambda p: p.stem)
def test_imports_point_one_way(path: Path) -> None:
    for name in imports(path):
        assert name.startswith("nanolan."), f"{path.stem} imports {name}"
        room = name.split(".")[1]
        assert room in ORDER, f"{path.stem} imports {name}: the core never imports train/ or sim/"
        assert ORDER.index(room) < ORDER.index(path.stem), f"{path.stem} imports {room}"


def test_the_trainer_imports_little_of_the_core() -> None:
    used = {
        n.split(".")[1]
        for p in (ROOT / "nanolan/train").glob("*.py")
        for n in imports(p)
        if n.startswith("nanolan.")
    }
    assert used <= {
        "train",
        "errors",
        "manifest",
        "datasets",
        "memory",
        "size",
        "samples",
        "pickles",
        "plainfile",
        "paths",
        "architecture",
        "conversations",
        "parquet",
    }


def test_only_the_trainer_and_the_seed_import_torch() -> None:
    for path in [
        *CORE,
        *(ROOT / "scripts").glob("*.py"),
        *(ROOT / "cloud").glob("*.py"),
        *(ROOT / "nanolan/sim").glob("*.py"),
    ]:
        assert "torch" not in set(imports(path)), path


@pytest.mark.parametrize(
    "script",
    [
        "launch",
        "check_status",
        "rehearse",
        "offers",
        "stop",
        "resume",
        "wait",
        "orphans",
        "why",
        "logs",
        "ssh",
        "report",
        "limit",
        "doctor",
        "upload",
        "verify",
        "costs",
        "pull",
        "completions",
        "guard",
    ],
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
    assert not loaded & {
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
    assert "click" in loaded


def test_files_stay_of_a_size_to_read_in_one_sitting() -> None:
    for path in [*(ROOT / "nanolan").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        assert len(path.read_text().splitlines()) <= 560, path
