"""How a checkout is recognised: by its files, by its own declaration, and known-broken spans are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolan.errors import UsageProblem
from nanolan.trainers.rows import MID, SFT, data_of, recognise, script_of, uses_task_data
from tests.support.checkouts import FILES_2025, FILES_2026, Files, phase, toml, write
from tests.support.forks import REPO

A = {MID: "", SFT: "", "nanochat/configurator.py": "", "rustbpe/Cargo.toml": ""}
B = {MID: "argparse", SFT: "argparse", "scripts/chat_rl.py": ""}
C = B | {SFT: 'parser.add_argument("--dry-run")\nout = "chatsft_checkpoints"'}
BROKEN = {SFT: 'out = os.path.join(base_dir, "sft_checkpoints", tag)'}
D = {SFT: 'd = "chatsft_checkpoints"', "nanochat/report.py": "", "tasks/customjson.py": ""}
E = {SFT: 'd = "chatsft_checkpoints"', "tasks/common.py": 'd = "task_data"'}
OWN = {"pyproject.toml": toml(phase("agent_rl", 'command = "true"'))}
ROWS: list[tuple[str, Files, str]] = [
    ("A, configurator", A, "nanochat-2025"),
    ("B, argparse", B, "nanochat-2025"),
    ("C, dashes", C, "nanochat-2025"),
    ("D, datasets", D, "nanochat-2026"),
    ("E, task_data", E, "nanochat-2026"),
    ("A of a fork that has tasks of its own", A | {"tasks/mine.py": ""}, "nanochat-2025"),
    ("D without rl", {SFT: ""}, "nanochat-2026"),
    ("declared", OWN, "custom"),
    ("declared in A", A | OWN, "custom"),
    ("declared in E", E | OWN, "custom"),
    ("declared in the broken span", BROKEN | OWN, "custom"),
    ("other tools only", E | {"pyproject.toml": "[tool.ruff]\n"}, "nanochat-2026"),
    ("a table tool that is a number", E | {"pyproject.toml": "tool = 3\n"}, "nanochat-2026"),
]


@pytest.mark.parametrize("files, name", [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_a_checkout_is_recognised_by_its_files(tmp_path: Path, files: Files, name: str) -> None:
    assert recognise(write(tmp_path, files)).name == name


@pytest.mark.parametrize("generation", ["2025", "2026"])
def test_the_miniature_forks_are_recognised(generation: str) -> None:
    row = recognise(REPO / "tests/forks" / generation)
    assert row.name == f"nanochat-{generation}"
    for p in row.phases.values():
        assert (REPO / "tests/forks" / generation / script_of(p.module)).is_file()


def test_each_phase_reads_what_its_generation_reads() -> None:
    old = recognise(REPO / "tests/forks/2025").phases
    new = recognise(REPO / "tests/forks/2026").phases
    reads = {f"{n} {p.input_dir}" for n, p in old.items()}
    assert reads == {"mid base_checkpoints", "sft mid_checkpoints", "rl chatsft_checkpoints"}
    reads = {f"{n} {p.input_dir}" for n, p in new.items()}
    assert reads == {"sft base_checkpoints", "rl chatsft_checkpoints"}


@pytest.mark.parametrize("text", BROKEN.values())
@pytest.mark.parametrize("quote", ["'", '"'])
def test_the_span_that_writes_where_nothing_reads_is_refused_with_the_fix(
    tmp_path: Path, text: str, quote: str
) -> None:
    write(tmp_path, {SFT: text.replace('"', quote)})
    with pytest.raises(UsageProblem) as e:
        recognise(tmp_path)
    assert "sft_checkpoints" in str(e.value) and "git pull" in str(e.value)
    assert str(tmp_path) not in str(e.value), "a temporary copy"


NONE: list[Files] = [
    {},
    {"README.md": ""},
    {MID: ""},
    {"nanochat/gpt.py": "", "scripts/base_train.py": ""},
    {f"fork/{SFT}": ""},
    {f"{SFT}/__init__.py": ""},
]


@pytest.mark.parametrize("files", NONE, ids=lambda f: ", ".join(f) or "empty")
def test_a_checkout_that_is_none_says_what_it_lacks(tmp_path: Path, files: Files) -> None:
    with pytest.raises(UsageProblem) as e:
        recognise(write(tmp_path, files))
    assert all(w in str(e.value) for w in (SFT, "[tool.nanolan]", "Nothing was rented"))
    assert str(tmp_path) not in str(e.value), "a temporary copy"


def test_nanolans_own_checkout_is_no_fork() -> None:
    with pytest.raises(UsageProblem, match="no nanochat checkout"):
        recognise(REPO)


@pytest.mark.parametrize("size", [0, 3 << 20], ids=["not UTF-8", "huge"])
def test_a_file_that_is_no_source_is_no_crash(tmp_path: Path, size: int) -> None:
    write(tmp_path, {SFT: b"\xff\xfe\0" + b"x" * size})
    if size:
        with pytest.raises(UsageProblem, match="scripts/chat_sft.py of the checkout has"):
            recognise(tmp_path)
    else:
        assert recognise(tmp_path).name == "nanochat-2026"


@pytest.mark.parametrize(
    "files, uses",
    [
        (E, True),
        (D, False),
        (A, False),
        (FILES_2026, True),
        (FILES_2025, False),
        ({"tasks/common.py": "from datasets import load_dataset"}, False),
        ({"tasks/common.py/x": "task_data"}, False),
    ],
)
def test_whether_its_data_can_be_laid_out(tmp_path: Path, files: Files, uses: bool) -> None:
    assert uses_task_data(write(tmp_path, files)) is uses


@pytest.mark.parametrize(
    "files, data",
    [
        (E, "task_data"),
        (D, "online"),
        (E | {"nanochat/a.py": "# import datasets, as before\nfrom mydatasets import x\n"}, "task_data"),
        (E | {"tasks/common.py": "from datasets import load_dataset\nd = 'task_data'"}, "task_data+online"),
        (E | {"tasks/mine.py": "def rows():\n    import datasets\n"}, "task_data+online"),
        (E | {"nanochat/a/b.py": "import huggingface_hub\n"}, "task_data+online"),
        (E | {"dev/make.py": "import datasets\n"}, "task_data"),
    ],
)  # fmt: skip
def test_a_checkout_with_data_of_its_own_may_download_it(
    tmp_path: Path, files: Files, data: str
) -> None:
    assert data_of(write(tmp_path, files)) == data
