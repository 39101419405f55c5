"""`nanolan` as an installed command: the checkout that it writes, and which .env counts."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nanolan.cli.installed import (
    CLONE_ONLY,
    carried,
    code_folder,
    env_file,
    environment,
    write_checkout,
)
from nanolan.code.bundle import make_bundle
from nanolan.settings.settings import ROOT
from nanolan.version import VERSION
from tests.support.recipes import recipes


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An installed package of four files."""
    folder = tmp_path / "site/nanolan"
    for name, text in {
        "__init__.py": "",
        "cli/__pycache__/x.pyc": "no",
        "_source/just": "#!/bin/sh\n",
        "_source/.gitignore": ".venv/\n.env\n",
        "_source/scripts/launch.py": "launch\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_first_call_writes_a_checkout_that_a_launch_can_send(
    package: Path, tmp_path: Path
) -> None:
    root = write_checkout(package, tmp_path / "code")
    assert root.parent == tmp_path / "code" and root.name.startswith(f"{VERSION}-")
    tracked = subprocess.check_output(["git", "ls-files"], cwd=root, text=True).split()
    assert tracked == [".gitignore", "just", "nanolan/__init__.py", "scripts/launch.py"]
    assert os.access(root / "just", os.X_OK)
    code = make_bundle(root, tmp_path / "bundle", "ab12cd34")
    assert code.size > 0 and not code.dirty
    assert [p.name for p in root.parent.iterdir()] == [root.name]


def test_later_calls_find_it_and_other_files_get_another(package: Path, tmp_path: Path) -> None:
    first = write_checkout(package, tmp_path / "code")
    (first / ".venv").mkdir()
    assert write_checkout(package, tmp_path / "code") == first and (first / ".venv").is_dir()
    (package / "_source/scripts/launch.py").write_text("newer\n")
    second = write_checkout(package, tmp_path / "code")
    assert second != first and (second / "scripts/launch.py").read_text() == "newer\n"


def test_the_code_is_in_the_users_home_unless_said_otherwise(tmp_path: Path) -> None:
    assert code_folder({"NANOLAN_HOME": "/sim"}) == Path.home() / ".nanolan/code"
    assert code_folder({"NANOLAN_CODE": str(tmp_path)}) == tmp_path


def test_settings_of_git_that_the_user_has_change_nothing(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gitconfig"
    config.write_text(
        "[commit]\ngpgsign = true\n[core]\nhooksPath = /nonexistent\nautocrlf = true\n"
        "[init]\ntemplateDir = /nonexistent\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    root = write_checkout(package, tmp_path / "home")
    assert (root / "just").read_bytes() == b"#!/bin/sh\n"


KEYS = "HF_REPO=me/lanbot\n"


@pytest.mark.parametrize(
    ("text", "mode", "used", "noted"),
    [
        (KEYS, 0o600, "here", "settings from"),
        ("export SHADEFORM_API_KEY=\n", 0o400, "here", "settings from"),
        (KEYS, 0o644, "home", "chmod 600 .env"),  # as a clone makes it
        (KEYS, 0o640, "home", "chmod 600 .env"),
        ("DATABASE_URL=x\nSHADEFORM_API=https://evil\n", 0o600, "home", ""),  # another project's
        ("", 0o600, "home", ""),
    ],
)
def test_the_env_of_the_current_folder_counts_only_if_it_is_yours_alone(
    tmp_path: Path, text: str, mode: int, used: str, noted: str
) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    for folder in (here, home):
        folder.mkdir()
        (folder / ".env").write_text(text)
    (here / ".env").chmod(mode)
    path, note = env_file(here, home)
    assert path == {"here": here, "home": home}[used] / ".env" and noted in note
    assert bool(note) is bool(noted)


def test_without_any_env_file_none_is_named_and_a_named_one_wins(tmp_path: Path) -> None:
    assert env_file(tmp_path, tmp_path / "home") == (None, "")
    (tmp_path / ".env").mkdir()
    assert env_file(tmp_path, tmp_path / "home") == (None, "")
    env, note = environment({"NANOLAN_ENV_FILE": "/mine", "PATH": "/bin"}, tmp_path, tmp_path)
    assert (env["NANOLAN_ENV_FILE"], note) == ("/mine", "")
    assert env["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}/bin"


def test_init_writes_the_env_of_nanolan_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    env, _ = environment({}, tmp_path, home, init=True)
    assert env["NANOLAN_ENV_FILE"] == str(home / ".env")
    assert (home / ".env").stat().st_mode & 0o777 == 0o600
    (home / ".env").write_text("HF_REPO=me/x\n")
    environment({}, tmp_path, home, init=True)
    assert (home / ".env").read_text() == "HF_REPO=me/x\n"


def test_recipes_that_need_the_clone_are_those_of_its_developers() -> None:
    dev = {r.name for r in recipes((ROOT / "justfile").read_text()) if r.group == "dev"}
    assert set(CLONE_ONLY) == dev - {"audit"}


def test_in_a_checkout_the_recipes_are_those_of_the_checkout(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nanolan.cli.installed", "--version"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, f"nanolan {VERSION}\n"), done.stderr


def test_it_imports_no_package_that_is_not_pinned(package: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from nanolan.cli import installed as i;"
        "import nanolan.settings.paths; i.write_checkout(*map(Path, sys.argv[1:]));"
        "print(*{m.partition('.')[0] for m in sys.modules} - sys.stdlib_module_names)"
    )
    words = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    done = subprocess.run([*words, package, tmp_path], capture_output=True, text=True, check=True)
    found = {n for n in done.stdout.split() if not n.startswith(("_", "sitecustomize"))}
    assert found == {"nanolan"}


@pytest.mark.slow
def test_the_wheel_carries_all_that_a_checkout_needs(tmp_path: Path) -> None:
    uv = ROOT / ".venv/bin/uv"
    words = [uv, "build", "--wheel", "--quiet", "--out-dir", tmp_path, ROOT]
    subprocess.run(words, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    assert (tmp_path / "site/nanolan/py.typed").is_file()
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    kept = ("nanolan/", "scripts/", "cloud/", "docs/", "constraints", "just")
    wanted = {n for n in listed if n.startswith(kept)} | {"pyproject.toml", "README.md", "LICENSE"}
    assert wanted <= carried(tmp_path / "site/nanolan").keys()
