"""The files around the code: packages that are imported are declared, YAML is read, and what CONTRIBUTING names is there."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanolan.settings.settings import ROOT
from tests.support.recipes import recipes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RECIPES = {r.name for r in recipes((ROOT / "justfile").read_text())}
# Checkouts of another project, and what runs in their interpreter
FOREIGN = ("tests/forks/", "nanolan/trainers/inside/")
OURS = {"nanolan", "scripts", "tests"} | {p.stem for p in (ROOT / "scripts").glob("*.py")}
TRACKED = {
    *(".ci", ".editorconfig", ".env.example", ".gitattributes", ".github", ".gitignore"),
    *(".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md"),
    *("SECURITY.md", "cloud", "constraints-cu12.txt", "constraints-cu13.txt", "constraints.txt"),
    *("docs", "just", "justfile", "nanolan", "pyproject.toml", "scripts", "tests"),
}
STDLIB = sys.stdlib_module_names | {"tomllib"}  # of Python 3.11
DISTRIBUTIONS = packages_distributions()


# ------------------------------------------------------------------ packages
def normal(name: str) -> str:
    return re.split(r"[^\w.-]", name, maxsplit=1)[0].lower().replace("_", "-")


def declared(*groups: list[Any]) -> set[str]:
    return {normal(text) for group in groups for text in group}


def imported(folders: tuple[str, ...]) -> dict[str, str]:
    """Distribution -> one file that imports it, lazily or not."""
    found = {}
    for path in (p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))):
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())) if not name.startswith(FOREIGN) else ():
            modules: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            elif isinstance(node, ast.Import):
                modules = [a.name for a in node.names]
            for top in {m.partition(".")[0] for m in modules} - OURS - STDLIB:
                # tomli is not installed everywhere
                found[normal(DISTRIBUTIONS.get(top, [top])[0])] = name
    return found


def test_every_package_that_is_imported_is_declared() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    shipped = [extras[name] for name in extras if name not in ("dev", "tools")]
    for folders, known in (
        (("nanolan", "scripts", "cloud"), declared(project["dependencies"], *shipped)),
        (("tests",), declared(project["dependencies"], *extras.values())),
    ):
        found = imported(folders)
        assert {n: f for n, f in found.items() if n not in known} == {}, "add it to pyproject.toml"


def test_every_package_of_the_light_set_is_imported() -> None:
    used = imported(("nanolan", "scripts", "cloud"))
    assert declared(PROJECT["project"]["dependencies"]) - used.keys() == set()


@pytest.mark.skipif(not (ROOT / ".venv/bin/uv").exists(), reason="no uv in .venv")
def test_uv_run_changes_no_package_and_writes_no_lock(tmp_path: Path) -> None:
    uv = str(ROOT / ".venv/bin/uv")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tmp_path)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("UV_", "VIRTUAL_ENV"))}
    quiet: Any = {"cwd": tmp_path, "env": env, "check": True, "capture_output": True}
    subprocess.run([uv, "venv", "--offline", "--python", sys.executable, ".venv"], **quiet)
    before = sorted(p.name for p in (tmp_path / ".venv").rglob("*") if "__pycache__" not in str(p))
    done = subprocess.run(
        [uv, "run", "--offline", "python", "-c", "import sys; print(sys.prefix)"], **quiet
    )
    assert Path(done.stdout.decode().strip()) == tmp_path / ".venv"
    after = sorted(p.name for p in (tmp_path / ".venv").rglob("*") if "__pycache__" not in str(p))
    assert after == before and not (tmp_path / "uv.lock").exists()


# ------------------------------------------------------------------ YAML
def yaml_files() -> list[Path]:
    found = [p for p in (ROOT / ".github").rglob("*") if p.suffix in (".yml", ".yaml")]
    return sorted([*found, ROOT / ".pre-commit-config.yaml"])


def jobs() -> list[tuple[str, dict[str, Any]]]:
    files = sorted((ROOT / ".github/workflows").glob("*.yml"))
    return [
        (f"{p.stem}.{n}", j)
        for p in files
        for n, j in yaml.safe_load(p.read_text())["jobs"].items()
    ]


@pytest.mark.parametrize("path", yaml_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_yaml_is_one_mapping_without_a_key_twice(path: Path) -> None:
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(k, deep=True) for k, _ in node.value]
            assert len(keys) == len(set(keys)), f"a key twice in {keys}"
            return super().construct_mapping(node, deep)

    assert isinstance(yaml.load(path.read_text(), Strict), dict)


def test_workflows_run_recipes_and_scripts_that_exist_with_few_rights_and_an_end() -> None:
    assert {name for name, _ in jobs()} >= {"tests.lint", "tests.tests", "release.release"}
    for name, job in jobs():
        assert job["timeout-minutes"] <= 180, name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), f"{name}: {step}"
            run = step.get("run", "")
            assert set(re.findall(r"\./just (\S+)", run)) <= RECIPES, run
            assert all((ROOT / path).exists() for path in re.findall(r"scripts/\w+\.\w+", run))
            # a title or a branch of a stranger is text, never a part of a command
            assert "${{" not in run, f"{name}: pass it as an environment variable"
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"], path
        assert "pull_request_target" not in workflow[True], path  # YAML reads `on` as true


def test_workflows_run_every_python_that_is_promised() -> None:
    matrix = dict(jobs())["tests.tests"]["strategy"]["matrix"]
    assert matrix["python"][0] == PROJECT["project"]["requires-python"].removeprefix(">=")
    assert [v.split(".")[0] for v in matrix["python"]] == ["3"] * len(matrix["python"])
    minors = [int(v.split(".")[1]) for v in matrix["python"]]
    assert minors == list(range(10, 15)), "each is quoted: YAML reads 3.10 as 3.1"
    assert any("macos" in row["os"] for row in matrix["include"])


def test_the_hooks_of_a_commit_are_the_programs_of_lint() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    lint = next(r.command for r in recipes((ROOT / "justfile").read_text()) if r.name == "lint")
    for hook in hooks:
        program = hook["entry"].split()[0]
        assert program == ".venv/bin/python" or program in lint, program
        assert all((ROOT / w).exists() for w in hook["entry"].split() if w.startswith("tests/"))


def test_forms_ask_each_question_once() -> None:
    for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        ids = [part["id"] for part in form.get("body", ()) if part["type"] != "markdown"]
        assert len(ids) == len(set(ids)), path
        assert path.stem == "config" or (form["name"] and form["description"] and ids), path


# ------------------------------------------------------------------ CONTRIBUTING
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_file_that_contributing_names_is_there() -> None:
    paths = re.findall(
        r"(?<!'s )`([\w.-]+(?:/[\w.-]*)+|[\w.-]+\.(?:md|toml|sh|py))(?:`| )", CONTRIBUTING
    )
    paths += re.findall(r"\]\(([\w./-]+)\)", CONTRIBUTING)
    assert len(paths) > 30
    assert [p for p in paths if not p.startswith("./") and not (ROOT / p).exists()] == []


def test_every_table_that_contributing_names_is_in_its_file() -> None:
    pairs = re.findall(r"(?:row|field) of `(\w+)` in `([\w/.]+\.py)`", CONTRIBUTING)
    assert len(pairs) >= 6
    for name, path in pairs:
        source = (ROOT / path).read_text()
        assert re.search(rf"^(?:class )?{name}\b", source, re.M), f"{name} in {path}"


def test_every_recipe_that_contributing_names_is_one() -> None:
    assert set(re.findall(r"\./just ([a-z-]+)", CONTRIBUTING)) <= RECIPES | {"rehearse"}


def test_every_file_in_the_table_of_dependencies_is_there() -> None:
    text = (ROOT / "docs/dependencies.md").read_text()
    paths = re.findall(r"`((?:nanolan|tests|scripts|\.github)/[\w./-]*)`", text)
    assert len(paths) > 30 and [p for p in paths if not (ROOT / p).exists()] == []
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")][1:]
    assert {row[5].split()[0].strip(";") for row in rows} == {"kept", "taken"}


def test_only_what_is_ours_is_tracked() -> None:
    """A tool's cache (as of schemathesis) names paths of the machine that it ran on."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.partition("/")[0] for line in listed.stdout.splitlines()} == TRACKED
