"""[tool.nanolan] of a checkout's pyproject.toml: what it may declare, and a sentence for everything else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nanolan.errors import UsageProblem
from nanolan.settings.settings import ROOT
from nanolan.trainers.custom import PYPROJECT, Declared, read_declared
from tests.support.checkouts import phase, toml, write

GOOD = 'module = "scripts.agent_rl"'


def read(tmp_path: Path, text: str | bytes) -> Declared | None:
    return read_declared(write(tmp_path, {PYPROJECT: text}))


def refused(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(UsageProblem) as e:
        read(tmp_path, text)
    said = str(e.value)
    assert "pyproject.toml of the checkout" in said and str(tmp_path) not in said
    assert len(said) < 700 and said.isprintable()
    return said


def test_a_module_and_a_command_are_phases(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        toml(
            phase("agent_rl", GOOD + '\ntitle = "Tool use"\narguments = ["--num-epochs=1"]')
            + phase("b2", 'command = """\nbash a.sh && \\\n  echo "$X"\n"""').replace(
                '"b_checkpoints"', '"c_checkpoints"'
            ),
            'evaluation = "scripts.my_eval"',
        ),
    )
    assert (
        found and found.evaluation == "scripts.my_eval" and list(found.phases) == ["agent_rl", "b2"]
    )
    first, second = found.phases.values()
    assert (first.module, first.arguments, first.title) == (
        "scripts.agent_rl",
        ("--num-epochs=1",),
        "Tool use",
    )
    assert (first.input_dir, first.output_dir) == ("a_checkpoints", "b_checkpoints")
    assert first.keeps == "weights" and second.keeps == "nothing" and second.title == "b2"
    assert 'echo "$X"' in second.command


@pytest.mark.parametrize(
    "text",
    ["", "x = 1", "[tool]", "[tool.ruff]\nx = 1", "tool = 3", 'tool = "nanolan"', "tool = [1]"],
)
def test_a_file_without_the_table_declares_nothing(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) is None
    assert read(tmp_path, "\ufeff" + text.replace("\n", "\r\n")) is None


def test_no_file_declares_nothing(tmp_path: Path) -> None:
    assert read_declared(tmp_path) is None
    (tmp_path / PYPROJECT).mkdir()
    assert read_declared(tmp_path) is None
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / PYPROJECT).symlink_to(PYPROJECT)  # a circle
    assert read_declared(tmp_path / "x") is None


# ---- one row a wrong field: (the phase's lines, or the whole file if it begins with "["; what is said)
VALUES = {
    "number": "3",
    "float": "nan",
    "bool": "true",
    "list": '["x"]',
    "table": "{a = 1}",
    "date": "2026-01-01",
    "time": "10:00:00",
    "empty": '""',
    "blank": '" "',
    "newline": '"a\\nb"',
    "nul": '"a\\u0000b"',
    "parent": '"../x"',
    "absolute": '"/etc"',
    "home": '"~/x"',
    "dot": '"."',
    "dots": '".."',
    "slash": '"a/b"',
    "backslash": "'a\\b'",
    "dash": '"-rf"',
    "hidden": '".ssh"',
    "variable": '"$HOME"',
    "huge": f'"{"x" * 100_000}"',
    "terminal": '"\\u001b[2J"',
    "right to left": '"a\\u202eb"',
}
FIELDS = ("input", "output", "module", "evaluation")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_wrong_value_of_a_name_is_refused(tmp_path: Path, field: str, value: str) -> None:
    if field == "evaluation":
        text = toml(phase("a", GOOD), f"evaluation = {value}")
        if value == '""':  # none
            assert read(tmp_path, text)
            return
    else:
        kept = {"input": '"a_checkpoints"', "output": '"b_checkpoints"', "module": '"scripts.x"'}
        lines = "\n".join(f"{k} = {v}" for k, v in (kept | {field: value}).items())
        text = toml(f"[tool.nanolan.phases.a]\n{lines}\n")
    assert field in refused(tmp_path, text) or field == "module"


@pytest.mark.parametrize(
    "value", ["3", "true", "{a = 1}", '"x"', "[1]", '["a", 2]', '["a\\u0000"]']
)
def test_arguments_are_a_list_of_texts(tmp_path: Path, value: str) -> None:
    said = refused(tmp_path, toml(phase("a", f"{GOOD}\narguments = {value}")))
    assert "arguments" in said or "NUL" in said


@pytest.mark.parametrize(
    "name",
    [
        "all",
        "A",
        "1a",
        "a-b",
        "a.b.c",
        "../x",
        "/x",
        "",
        " ",
        "a b",
        "a\\nb",
        "\\u001b[2J",
        "é",
        "x" * 41,
    ]
    + ["x" * 100_000, "a+b", "-x", "sft\\u0000"],
    ids=lambda n: n[:12],
)
def test_a_phase_has_a_plain_name(tmp_path: Path, name: str) -> None:
    said = refused(tmp_path, toml(phase(f'"{name}"', GOOD)))
    assert "its name is not usable" in said


WRONG = {
    "unknown field": (phase("a", GOOD + "\nmodul = 1"), "unknown field `modul`"),
    "no input": ('[tool.nanolan.phases.a]\noutput = "b"\nmodule = "m"', "required field `input`"),
    "no output": ('[tool.nanolan.phases.a]\ninput = "b"\nmodule = "m"', "required field `output`"),
    "both": (phase("a", GOOD + '\ncommand = "x"'), "a module or a command, one of them"),
    "neither": (phase("a", ""), "a module or a command, one of them"),
    "a blank command": (phase("a", 'command = " \\n "'), "a module or a command, one of them"),
    "a NUL in a command": (phase("a", 'command = "a\\u0000b"'), "NUL"),
    "command and arguments": (phase("a", 'command = "x"\narguments = ["y"]'), "belong to a module"),
    "a title of two lines": (phase("a", GOOD + '\ntitle = "a\\nb"'), "title"),
    "a huge title": (phase("a", GOOD + f'\ntitle = "{"x" * 100_000}"'), "title"),
    "its own input": (phase("a", GOOD).replace("b_check", "a_check"), "output, which is its input"),
    "but for its case": (
        phase("a", GOOD).replace("b_check", "A_check"),
        "output, which is its input",
    ),
    "one output of two": (phase("a", GOOD) + phase("b", GOOD), "an output of two phases"),
    "the run folders": (phase("a", GOOD).replace("b_checkpoints", "runs"), "output"),
    "the tokenizer": (phase("a", GOOD).replace("b_checkpoints", "Tokenizer"), "output"),
    "no phases": ("", "required field `phases`"),
    "phases is a list": ("[[tool.nanolan.phases]]", "`object`, got `array`"),
    "phases is a number": ("phases = 3", "`object`, got `int`"),
    "phases is empty": ("[tool.nanolan.phases]", "declares no phase"),
    "a phase is a text": ('[tool.nanolan.phases]\na = "x"', "`object`, got `str`"),
    "another table": ("[tool.nanolan.phase.a]\nx = 1", "unknown field `phase`"),
}


@pytest.mark.parametrize("phases, words", WRONG.values(), ids=WRONG)
def test_a_wrong_table_says_which_field(tmp_path: Path, phases: str, words: str) -> None:
    assert words in refused(tmp_path, toml(phases))


@pytest.mark.parametrize("value", ["3", '"x"', "[]", "[{}]", "{}", "true"])
def test_the_table_itself_is_a_table_with_phases(tmp_path: Path, value: str) -> None:
    refused(tmp_path, f"tool = {{nanolan = {value}}}")


NOT_TOML = {
    "prose": "this is not TOML",
    "JSON": '{"tool": {}}',
    "open": "[tool.nanolan",
    "twice": "[tool.nanolan]\n[tool.nanolan]",
    "conflict": "<<<<<<< HEAD\n[tool.nanolan]\n=======\n>>>>>>> x",
    "NUL": "a = 1\0",
    "UTF-16": "[tool.nanolan]".encode("utf-16"),
    "Latin-1 in a key": "é = 1".encode("latin-1"),
    "deep": "a = " + "[" * 5000 + "]" * 5000,
    "a number of 5,000 digits": f"a = {'9' * 5000}",
    "a bare return": "a = 1\r[tool.nanolan]\rb = 2",
}


@pytest.mark.parametrize("text", NOT_TOML.values(), ids=NOT_TOML)
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, text: str | bytes) -> None:
    assert "is no valid TOML" in refused(tmp_path, text)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="pyproject.toml of the checkout has 3,"):
        read(tmp_path, "#" * (3 << 20))


def test_python_3_10_reads_it_with_tomli(tmp_path: Path) -> None:
    """tomllib is new in Python 3.11; the dependency is declared for older ones."""
    newer = sys.version_info >= (3, 11)  # which has no tomli
    stand_in = {"tomli.py": "from tomllib import loads"} if newer else {}
    write(tmp_path, stand_in | {PYPROJECT: toml(phase("a", GOOD))})
    program = (
        "import sys, pathlib; sys.version_info = (3, 10, 0, 'final', 0)\n"
        "from nanolan.trainers import custom, source\n"
        "assert source.tomllib.__name__ == 'tomli'\n"
        f"print(*custom.read_declared(pathlib.Path({str(tmp_path)!r})).phases)"
    )
    paths = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=paths, capture_output=True, text=True
    )
    assert done.stdout == "a\n", done.stderr
    assert re.search(r'"tomli[^"]*python_version < \'3.11\'', (ROOT / "pyproject.toml").read_text())
