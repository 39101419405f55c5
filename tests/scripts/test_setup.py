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

from nanolan.sim.world import offline_packages

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    "just",
    "justfile",
    "pyproject.toml",
    "constraints.txt",
    "constraints-cu12.txt",
    "constraints-cu13.txt",
    "README.md",
    "LICENSE",
    "scripts/setup.sh",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What setup needs of the project, in a folder with a space in its name."""
    folder = tmp_path / "a folder"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    shutil.copytree(
        ROOT / "nanolan", folder / "nanolan", ignore=shutil.ignore_patterns("__pycache__")
    )
    return folder


@pytest.fixture
def env() -> dict[str, str]:
    """No network: what is installed comes from this machine's package cache."""
    packages = offline_packages(os.environ)
    if not packages:
        pytest.skip("no uv here to install with from the cache")
    return {
        k: v for k, v in os.environ.items() if k.startswith(("PATH", "HOME", "PIP_", "SSL"))
    } | packages


def setup(
    checkout: Path, env: dict[str, str], what: str = "light"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "scripts/setup.sh", what],
        cwd=checkout,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
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


def test_a_half_made_venv_and_a_dead_owners_lock_heal(checkout: Path, env: dict[str, str]) -> None:
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").write_text("not a program")
    (checkout / ".venv.lock").mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (checkout / ".venv.lock/pid").write_text(str(gone.pid))
    assert setup(checkout, env).returncode == 0
    assert works(checkout)


def test_a_moved_checkout_is_set_up_anew(checkout: Path, env: dict[str, str]) -> None:
    assert setup(checkout, env).returncode == 0
    moved = checkout.rename(checkout.with_name("elsewhere"))
    assert setup(moved, env).returncode == 0
    assert works(moved)


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


def stub_uv(folder: Path, fails: str) -> str:
    """A uv that makes a folder for `venv`, fails a command that holds `fails`, and writes down what it was asked."""
    path = folder / "uv"
    path.write_text(
        f'#!/bin/sh\necho "$*" >> "{folder}/asked"\ncase "$*" in *"{fails}"*) exit 1 ;; esac\n'
        f'[ "$1" != venv ] || {{ mkdir -p .venv/bin && ln -s "{sys.executable}" .venv/bin/python; }}\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("nvidia-smi") is not None,
    reason="needs Linux without an NVIDIA driver",
)
@pytest.mark.parametrize("index_answers", [True, False])
def test_without_a_gpu_the_cpu_build_is_asked_for_first_and_the_size_of_the_other_is_said(
    checkout: Path, tmp_path: Path, index_answers: bool
) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "UV": stub_uv(tmp_path, "nothing" if index_answers else "--torch-backend cpu"),
    }
    done = setup(checkout, env, "train")
    asked = [line for line in (tmp_path / "asked").read_text().splitlines() if " torch" in line]
    assert done.returncode == 0 and "--torch-backend cpu" in asked[0]
    assert len(asked) == (1 if index_answers else 2)
    assert all("-c constraints-cu13.txt torch" in line for line in asked[1:])
    assert ("about 3 GB" in done.stderr) is not index_answers


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("580.95.05", 13),
        ("595.1", 13),
        ("570.172.08", 12),
        ("535.1", 12),
        ("[N/A]", 13),
        ("WARNING: infoROM is corrupted at gpu 0000:1B:00.0\n570.172.08", 12),
        ("\n580.95.05\n580.95.05\n14 devices", 13),
    ],
)
def test_with_a_gpu_pypis_torch_for_its_driver_is_taken_by_version_and_hash(
    checkout: Path, tmp_path: Path, driver: str, cuda: int
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvidia-smi").write_text(
        f"#!/bin/sh\necho '{driver}'; echo 'GPU 0: one (UUID: GPU-1)'; exit 14\n"
    )
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    env = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "UV": stub_uv(tmp_path, "nothing"),
    }
    assert setup(checkout, env, "train").returncode == 0
    assert (
        f"-c constraints.txt -c constraints-cu{cuda}.txt torch -e .[train]"
        in (tmp_path / "asked").read_text()
    )


def rented(tmp_path: Path, smi: str, device: str = "cuda") -> dict[str, str]:
    """The environment of set-up on a rented machine whose nvidia-smi is this script."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin/nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    return {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "UV": stub_uv(tmp_path, "nothing"),
        "NANOLAN_DEVICE": device,
    }


GPU_570 = "case $* in -L) echo 'GPU 0: one (UUID: GPU-1)' ;; *) echo 570.1.2 ;; esac"
GPU_580 = GPU_570.replace("570", "580")


@pytest.mark.parametrize(
    "smi",
    [
        "exit 9",
        "echo NVIDIA-SMI has failed; exit 9",
        "echo No devices were found; exit 6",
        "exit 127",
    ],
)
def test_a_machine_with_gpus_never_gets_a_cpu_torch(
    checkout: Path, tmp_path: Path, smi: str
) -> None:
    done = setup(checkout, rented(tmp_path, smi), "train")
    assert done.returncode == 1 and "the NVIDIA driver does not answer" in done.stderr
    assert (
        " torch" not in (tmp_path / "asked").read_text()
        and not (checkout / ".venv/.ready-train").exists()
    )
    assert setup(checkout, rented(tmp_path, GPU_570), "train").returncode == 0, "the driver came up"
    assert "constraints-cu12.txt torch" in (tmp_path / "asked").read_text()


def test_a_wrong_build_of_torch_is_replaced_on_a_machine_with_gpus(
    checkout: Path, tmp_path: Path
) -> None:
    assert setup(checkout, rented(tmp_path, GPU_570, "cpu"), "train").returncode == 0
    site = checkout / ".venv/lib/python3.11/site-packages/torch-2.13.0+cpu.dist-info"
    site.mkdir(parents=True)
    for smi, words in (
        (GPU_570, "constraints-cu12.txt torch --reinstall-package torch"),
        (GPU_580, "constraints-cu13.txt torch"),
    ):
        assert setup(checkout, rented(tmp_path, smi), "train").returncode == 0
        assert words in (tmp_path / "asked").read_text().splitlines()[-1]
    count = len((tmp_path / "asked").read_text().splitlines())
    assert setup(checkout, rented(tmp_path, GPU_580), "train").returncode == 0
    assert len((tmp_path / "asked").read_text().splitlines()) == count, "in place: nothing is done"


def test_a_rehearsal_takes_the_cpu_build_whatever_nvidia_smi_says(
    checkout: Path, tmp_path: Path
) -> None:
    assert setup(checkout, rented(tmp_path, GPU_570, "cpu"), "train").returncode == 0
    assert "--torch-backend cpu" in (tmp_path / "asked").read_text()


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
