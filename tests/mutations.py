"""Random mutations of the code for money, data and secrets, by cosmic-ray: does a quick test fail for each?

just mutate                             20 mutations
just mutate count=60 seed=7             60, the same ones for the same seed and commit
just mutate count=10 nanolan/cost       of some files or folders alone

Works on a clone of HEAD, so the checkout stays as it is. A survivor is a line that no quick test holds, or a mutation that changes
nothing: its diff is printed.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

from nanolan.settings.settings import ROOT

ROOMS = (
    "cloud/rescue.py",
    "nanolan/box",
    "nanolan/checkpoint",
    "nanolan/code",
    "nanolan/cost",
    "nanolan/files.py",
    "nanolan/hub",
    "nanolan/launch",
    "nanolan/manage",
    "nanolan/money.py",
    "nanolan/net",
    "nanolan/redact.py",
    "nanolan/run",
    "nanolan/shadeform",
)
OPERATORS = (
    "AddNot",
    "ExceptionReplacer",
    "NumberReplacer",
    "RemoveDecorator",
    "ReplaceAndWithOr",
    "ReplaceBinaryOperator_Add_Sub",
    "ReplaceBinaryOperator_Div_Mul",
    "ReplaceBinaryOperator_Mul_Div",
    "ReplaceBinaryOperator_Sub_Add",
    "ReplaceBreakWithContinue",
    "ReplaceComparisonOperator_Eq_NotEq",
    "ReplaceComparisonOperator_GtE_Gt",
    "ReplaceComparisonOperator_Gt_GtE",
    "ReplaceComparisonOperator_IsNot_Is",
    "ReplaceComparisonOperator_Is_IsNot",
    "ReplaceComparisonOperator_LtE_Lt",
    "ReplaceComparisonOperator_Lt_LtE",
    "ReplaceComparisonOperator_NotEq_Eq",
    "ReplaceContinueWithBreak",
    "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    "ReplaceUnaryOperator_Delete_Not",
    "ZeroIterationForLoop",
)
# After a module's own tests and those of its folder
LAST = (
    "tests/promises",
    "tests/attacks",
    "tests/box",
    "tests/manage",
    "tests/launch",
    "tests/scripts",
)
TEST_LIMIT_S = 120


class DropCall(Operator):
    """Replaces a call whose result nobody uses with `pass`."""

    def mutation_positions(self, node: parso.tree.NodeOrLeaf) -> Iterator[tuple]:
        calls = node.type == "atom_expr" and node.children[-1].children[0] == "("
        if calls and node.parent.type == "simple_stmt":
            yield node.start_pos, node.end_pos

    def mutate(self, node: parso.tree.NodeOrLeaf, index: int) -> parso.tree.NodeOrLeaf:
        return parso.python.tree.Keyword("pass", node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls) -> tuple:
        return ()


@dataclass(frozen=True)
class Mutant:
    """A file with one mutation: what it is, and the whole mutated text."""

    path: Path  # relative to the checkout
    line: int
    operator: str
    text: str


def mutants(root: Path, rooms: list[str], count: int, seed: int) -> Iterator[Mutant]:
    """`count` random mutants: a file by its number of lines, an operator, a place."""
    chance = random.Random(seed)
    files = [f for f in modules(root, rooms) if f.read_text().strip()]
    weights = [f.read_text().count("\n") for f in files]
    made = 0
    while made < count:
        path = chance.choices(files, weights)[0]
        name = chance.choice(("DropCall", "DropCall", "DropCall", *OPERATORS))
        if found := mutant(path, name, chance):
            made += 1
            yield Mutant(path.relative_to(root), *found)


def modules(root: Path, rooms: list[str]) -> list[Path]:
    """The Python files of these files and folders."""
    paths = [root / room for room in rooms]
    return [f for p in paths for f in (sorted(p.rglob("*.py")) if p.is_dir() else [p])]


def mutant(path: Path, name: str, chance: random.Random) -> tuple[int, str, str] | None:
    """(line, operator, mutated text) at a random place of the operator; None if there is none."""
    operator = DropCall() if name == "DropCall" else get_operator(f"core/{name}")()
    text = path.read_text()
    places = [
        start for node in ast_nodes(get_ast(text)) for start, _ in operator.mutation_positions(node)
    ]
    if not places:
        return None
    which = chance.randrange(len(places))
    return places[which][0], name, mutate_code(text, operator, which)


def stages(root: Path, path: Path) -> Iterator[list[str]]:
    """The tests to run, nearest first."""
    folder = Path("tests", *path.parts[1:-1]) if path.parts[0] == "nanolan" else Path("tests/cloud")
    if near := sorted((root / folder).glob(f"test_{path.stem}*.py")):
        yield [str(f.relative_to(root)) for f in near]
    if folder != Path("tests"):
        yield [str(folder)]
    yield list(LAST)


def killed_by(root: Path, mutated: Mutant) -> str:
    """What fails first with this mutant in the checkout at `root`, or "" for a survivor."""
    path = root / mutated.path
    whole = path.read_text()
    path.write_text(mutated.text)
    try:
        return next(
            filter(None, (failure(root, stage) for stage in stages(root, mutated.path))), ""
        )
    finally:
        path.write_text(whole)


def failure(root: Path, tests: list[str]) -> str:
    """The first test that fails, or "" if none does."""
    words = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not system"]
    workers = ["-n", "2"] if tests == list(LAST) else []
    done = subprocess.run(
        [
            root / ".venv/bin/python",
            "-m",
            "pytest",
            *words,
            *workers,
            f"--timeout={TEST_LIMIT_S}",
            *tests,
        ],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if done.returncode in (0, 5):  # 5: no tests there
        return ""
    lines = [x for x in done.stdout.splitlines() if x.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0] if lines else f"pytest exits with {done.returncode}"


def difference(root: Path, mutated: Mutant) -> str:
    """The mutation as lines of a diff."""
    old, new = (root / mutated.path).read_text().splitlines(), mutated.text.splitlines()
    changed = [(a, b) for a, b in zip(old, new, strict=False) if a != b][:3]
    return "\n".join(f"    - {a.strip()}\n    + {b.strip()}" for a, b in changed)


def main(words: list[str]) -> int:
    """Each mutant in turn, then how many were killed; exit code 1 if one survived."""
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    named = dict(w.split("=", 1) for w in words if "=" in w)
    count, seed = int(named.get("count", 20)), int(named.get("seed", time.time()))
    rooms = [w for w in words if "=" not in w] or list(ROOMS)
    survived = 0
    with tempfile.TemporaryDirectory(prefix="nanolan-mutants-") as temp:
        copy = Path(temp) / "checkout"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(copy)], check=True)
        subprocess.run(["sh", "scripts/setup.sh", "dev"], cwd=copy, check=True)
        for mutated in mutants(copy, rooms, count, seed):
            start = time.monotonic()
            by = killed_by(copy, mutated)
            survived += not by
            print(
                f"{'killed' if by else 'SURVIVED':8} {time.monotonic() - start:4.0f} s  "
                f"{mutated.path}:{mutated.line} {mutated.operator}\n"
                f"{f'    {by}' if by else difference(copy, mutated)}",
                flush=True,
            )
    print(f"{count - survived} of {count} killed (seed={seed})")
    return bool(survived)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
