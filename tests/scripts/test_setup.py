"""scripts/setup.sh and ./just: from nothing, twice at once, after a Ctrl-C, with other pins, in odd places."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanolan.launch.make_plan import FOREIGN, WANDB_SET, Rehearsal
from tests.support.core_fixtures import a_plan
from tests.support.setup_fixtures import (
    ROOT,
    checkout,  # noqa: F401  # a fixture
    env,  # noqa: F401  # a fixture
    setup,
    stub_uv,
)


def works(checkout: Path) -> bool:
    code = "import nanolan.settings.settings, requests, huggingface_hub; print(nanolan.settings.settings.__file__)"
    done = subprocess.run(
        [".venv/bin/python", "-c", code], cwd=checkout, capture_output=True, text=True
    )
    return str(checkout) in done.stdout


def test_the_light_set_installs_without_torch_or_wandb(checkout: Path, env: dict[str, str]) -> None:
    done = setup(checkout, env)
    assert done.returncode == 0, done.stderr
    assert works(checkout)
    site = next((checkout / ".venv/lib").glob("python3*/site-packages"))
    assert not {"torch", "wandb", "numpy"} & {p.name for p in site.iterdir()}


@pytest.mark.slow
def test_the_report_set_adds_charts_and_no_torch_and_serves_the_light_commands(
    checkout: Path, env: dict[str, str]
) -> None:
    done = setup(checkout, env, "report")
    assert done.returncode == 0, done.stderr
    site = next((checkout / ".venv/lib").glob("python3*/site-packages"))
    names = {p.name for p in site.iterdir()}
    assert "matplotlib" in names and not {"torch", "wandb"} & names
    assert setup(checkout, env | {"UV": "/nonexistent"}).returncode == 0, (
        "in place: nothing is looked for"
    )


@pytest.mark.slow
def test_the_box_set_adds_what_an_instance_needs_besides_its_trainer(
    checkout: Path, env: dict[str, str]
) -> None:
    done = setup(checkout, env, "box")
    assert done.returncode == 0, done.stderr
    site = next((checkout / ".venv/lib").glob("python3*/site-packages"))
    names = {p.name for p in site.iterdir()}
    assert {"apprise", "matplotlib"} <= names and "torch" not in names


def test_every_set_that_a_plan_names_can_be_installed() -> None:
    text = (ROOT / "scripts/setup.sh").read_text()
    known = set(re.findall(r"^ +(\w+)\) install", text, re.M))
    assert {FOREIGN["setup"], Rehearsal({}).setup, a_plan().setup, WANDB_SET} <= known


def test_the_wrapper_works_from_another_folder_and_lists_the_recipes(
    checkout: Path, env: dict[str, str]
) -> None:
    just = shutil.which("just", path=f"{ROOT / '.venv/bin'}{os.pathsep}{os.environ['PATH']}")
    if not just:
        pytest.skip("no just here to copy")
    (checkout / ".venv/bin").mkdir(parents=True)
    shutil.copy2(just, checkout / ".venv/bin/just")
    done = subprocess.run(
        [str(checkout / "just")], cwd="/", env=env, capture_output=True, text=True
    )
    assert done.returncode == 0
    for recipe in ("rehearse", "dry-run", "launch", "status", "watch", "test"):
        assert f"    {recipe}" in done.stdout


@pytest.mark.slow  # a whole set-up
def test_two_first_runs_at_once_both_succeed(checkout: Path, env: dict[str, str]) -> None:
    two = [
        subprocess.Popen(
            ["sh", "scripts/setup.sh", "light"], cwd=checkout, env=env, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    assert [p.wait(120) for p in two] == [0, 0], [p.stderr.read() for p in two if p.stderr]
    for p in two:
        assert p.stderr
        p.stderr.close()
    assert works(checkout)
    assert not (checkout / ".venv.lock").exists()


@pytest.mark.parametrize(
    "after_s", [0.05, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.15, 0.3, 0.6))]
)
def test_a_ctrl_c_at_any_moment_heals_on_the_next_run(
    checkout: Path, env: dict[str, str], after_s: float
) -> None:
    first = subprocess.Popen(
        ["sh", "scripts/setup.sh", "light"],
        cwd=checkout,
        env=env,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(after_s)
    os.killpg(first.pid, signal.SIGINT)
    first.wait(60)
    done = setup(checkout, env)
    assert done.returncode == 0, done.stderr
    assert works(checkout)


@pytest.mark.slow  # a whole set-up
def test_a_half_made_venv_and_a_dead_owners_lock_heal(checkout: Path, env: dict[str, str]) -> None:
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").write_text("not a program")
    (checkout / ".venv.lock").mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (checkout / ".venv.lock/pid").write_text(str(gone.pid))
    assert setup(checkout, env).returncode == 0
    assert works(checkout)


@pytest.mark.slow  # a whole set-up
def test_a_moved_checkout_is_set_up_anew(checkout: Path, env: dict[str, str]) -> None:
    assert setup(checkout, env).returncode == 0
    moved = checkout.rename(checkout.with_name("elsewhere"))
    assert setup(moved, env).returncode == 0
    assert works(moved)


@pytest.mark.slow  # a whole set-up
def test_changed_pins_install_again_and_unchanged_ones_do_nothing(
    checkout: Path, env: dict[str, str]
) -> None:
    assert setup(checkout, env).returncode == 0
    ready = checkout / ".venv/.ready-light"
    before = ready.stat().st_mtime_ns
    assert (
        setup(checkout, env | {"UV": "/nonexistent"}).returncode == 0
    )  # in place: nothing is even looked for
    assert ready.stat().st_mtime_ns == before
    with open(checkout / "constraints.txt", "a") as f:
        f.write("# changed\n")
    assert setup(checkout, env).returncode == 0
    assert ready.stat().st_mtime_ns > before


def stub_python(folder: Path, fails: str) -> str:
    """A PATH whose python3 fails the commands that hold `fails`; no uv on it."""
    folder.mkdir()
    (folder / "python3").write_text(
        f'#!/bin/sh\ncase "$*" in *"{fails}"*) exit 1 ;; esac\nexec "{sys.executable}" "$@"\n'
    )
    (folder / "python3").chmod(0o755)
    for tool in ("sh", "cat", "cksum", "mkdir", "rm", "dirname", "tr", "head", "cut", "sleep"):
        (folder / tool).symlink_to(shutil.which(tool) or tool)
    return str(folder)


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ("import ensurepip", "sudo apt install python3-venv"),
        ("version_info", "nanolan needs 3.10 or newer"),
    ],
)
def test_a_python_that_cannot_gets_the_line_that_fixes_it(
    checkout: Path, tmp_path: Path, fails: str, says: str
) -> None:
    done = setup(checkout, {"PATH": stub_python(tmp_path / "bin", fails), "HOME": str(tmp_path)})
    assert done.returncode == 1
    assert says in done.stderr.splitlines()[-1]


# Settings that people have for other projects, each of which broke pip, uv or Python here
HOSTILE = {
    "PYTHONPATH": "/evil",
    "PYTHONHOME": "/evil",
    "PYTHONSTARTUP": "/evil",
    "PYTHONWARNINGS": "error",
    "PYTHONUSERBASE": "/evil",
    "PYTHONSAFEPATH": "1",
    "PYTHONINSPECT": "1",
    "PYTHONPLATLIBDIR": "evil",
    "PIP_USER": "1",
    "PIP_TARGET": "/evil",
    "PIP_PREFIX": "/evil",
    "PIP_ROOT": "/evil",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PIP_CONSTRAINT": "/evil",
    "PIP_REQUIREMENT": "/evil",
    "PIP_NO_DEPS": "1",
    "PIP_ONLY_BINARY": ":none:",
    "PIP_NO_BINARY": ":all:",
    "PIP_DRY_RUN": "1",
    "PIP_PYTHON": "/evil",
    "PIP_BREAK_SYSTEM_PACKAGES": "1",
    "PIP_ISOLATED": "1",
    "UV_SYSTEM_PYTHON": "1",
    "UV_PYTHON": "2.7",
    "UV_TARGET": "/evil",
    "UV_PREFIX": "/evil",
    "UV_CONSTRAINT": "/evil",
    "UV_OVERRIDE": "/evil",
    "UV_EXCLUDE_NEWER": "2001-01-01",
    "UV_NO_DEPS": "1",
    "UV_RESOLUTION": "lowest",
    "UV_PRERELEASE": "allow",
    "UV_NO_BINARY": "1",
    "UV_TORCH_BACKEND": "rocm6",
    "UV_REQUIRE_HASHES": "1",
    "UV_PROJECT_ENVIRONMENT": "/evil",
    "UV_NO_VERIFY_HASHES": "1",
    "VIRTUAL_ENV": "/another/project",
    "CONDA_PREFIX": "/conda",
    "CDPATH": "/etc",
}


KEPT = {
    "PIP_INDEX_URL": "https://here/simple",
    "PIP_CERT": "/ca.pem",
    "PIP_CACHE_DIR": "/c",
    "UV_INDEX_URL": "https://here/simple",
    "UV_DEFAULT_INDEX": "https://here/simple",
    "UV_CACHE_DIR": "/c",
    "UV_OFFLINE": "1",
    "UV_HTTP_TIMEOUT": "300",
    "UV_NATIVE_TLS": "1",
    "UV_INSECURE_HOST": "here",
    "UV_LINK_MODE": "copy",
    "HTTPS_PROXY": "http://proxy",
    "SSL_CERT_FILE": "/ca.pem",
}


def test_of_other_peoples_settings_only_those_count_that_say_where_packages_come_from(
    checkout: Path, tmp_path: Path
) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "UV": stub_uv(tmp_path, "nothing")}
    with open(env["UV"], "a") as f:
        f.write(f'env >>"{tmp_path}/environment"\n')
    assert setup(checkout, env | HOSTILE | KEPT).returncode == 0
    seen = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert not seen & set(HOSTILE) and set(KEPT) <= seen


@pytest.mark.parametrize(
    "caller",
    [
        pytest.param("/", marks=pytest.mark.slow),
        "beside",
        pytest.param("inside", marks=pytest.mark.slow),
    ],
)
def test_set_up_works_under_hostile_settings_from_any_folder(
    checkout: Path, env: dict[str, str], tmp_path: Path, caller: str
) -> None:
    evil = tmp_path / "evil"
    (evil / "scripts").mkdir(parents=True)
    for name in ("sitecustomize", "usercustomize", "json", "click"):
        (evil / f"{name}.py").write_text("raise SystemExit('evil')\n")
    hostile = {k: str(evil) if v == "/evil" else v for k, v in HOSTILE.items()} | {
        "CDPATH": str(evil)
    }
    cwd, script = {
        "/": (Path("/"), checkout / "scripts/setup.sh"),
        "beside": (checkout.parent, Path(checkout.name, "scripts/setup.sh")),
        "inside": (checkout, Path("scripts/setup.sh")),
    }[caller]
    done = subprocess.run(
        ["sh", script, "light"],
        cwd=cwd,
        env=env | hostile,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert works(checkout) and list(evil.iterdir()) != [] and not list(evil.glob("*.dist-info"))


def test_a_checkout_has_the_line_ends_that_its_scripts_need(checkout: Path, tmp_path: Path) -> None:
    shutil.copy2(ROOT / ".gitattributes", checkout)
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@here", "-c", "core.autocrlf=true"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], cwd=checkout, check=True, capture_output=True)
    subprocess.run([*git, "clone", "-q", str(checkout), str(tmp_path / "clone")], check=True)
    for name in ("just", "justfile", "scripts/setup.sh", "constraints.txt"):
        assert b"\r" not in (tmp_path / "clone" / name).read_bytes()


def test_a_package_with_other_bytes_than_pinned_is_refused(
    checkout: Path, env: dict[str, str]
) -> None:
    pins = (checkout / "constraints.txt").read_text()
    block = re.search(r"^click==.*\n(?: .*\n)+", pins, re.M)
    assert block
    (checkout / "constraints.txt").write_text(
        pins.replace(block[0], re.sub("sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", block[0]))
    )
    done = setup(checkout, env)
    assert done.returncode == 1
    assert "Hash mismatch for `click" in done.stderr


@pytest.mark.parametrize(
    "name", ["constraints.txt", "constraints-cu12.txt", "constraints-cu13.txt"]
)
def test_every_pinned_package_has_its_version_and_its_hashes(name: str) -> None:
    blocks = re.findall(r"^(\S[^\n]*)\n((?: [^\n]*\n)*)", (ROOT / name).read_text(), re.M)
    assert blocks
    for head, hashes in blocks:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==[^ ]+ .*\\$", head), head
        assert re.fullmatch(r"(?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", hashes), head


def test_all_that_the_project_names_is_pinned() -> None:
    project = (
        (ROOT / "pyproject.toml").read_text().partition("[build-system]")[0]
    )  # tomllib is not in Python 3.10
    named = set(re.findall(r'^    "([A-Za-z0-9_-]+)(?:[><=].*?)?",', project, re.M))
    pinned = {
        re.split("==", line)[0]
        for path in ROOT.glob("constraints*.txt")
        for line in path.read_text().splitlines()
        if line[:1] != " "
    }
    assert named and {n.lower().replace("_", "-") for n in named} <= pinned


def test_no_network_is_said_in_one_line(
    checkout: Path, env: dict[str, str], tmp_path: Path
) -> None:
    done = setup(
        checkout,
        env | {"UV_CACHE_DIR": str(tmp_path / "empty"), "PIP_FIND_LINKS": "", "UV_FIND_LINKS": ""},
    )
    assert done.returncode == 1
    assert "is PyPI reachable?" in done.stderr.splitlines()[-1]


def test_an_unknown_set_is_refused(checkout: Path, env: dict[str, str]) -> None:
    assert "no set called 'all'" in setup(checkout, env, "all").stderr
