"""Variables that libraries parse at import: an odd value stops what starts spending, and nothing else."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import tqdm

from nanolan.run.ledger import Ledger
from nanolan.settings.library_variables import READERS, take_out, untold
from nanolan.settings.settings import ROOT
from nanolan.sim.shadeform.server import ShadeformServer
from tests.support.stop_script_fixtures import (
    cloud,  # noqa: F401  # a fixture
    deleted,
    environment,
    ledger,  # noqa: F401  # a fixture
    rented,
)

ODD = [
    ("HF_HUB_DOWNLOAD_TIMEOUT", "30.5"),
    ("HF_HUB_DOWNLOAD_TIMEOUT", "30s"),
    ("HF_HUB_DOWNLOAD_TIMEOUT", ""),
    ("HF_HUB_DOWNLOAD_TIMEOUT", "-1"),
    ("HF_HUB_ETAG_TIMEOUT", "10s"),
    ("HF_ENDPOINT", "https://[hub"),
    ("HF_ENDPOINT", "http://127.0.0.1:8o80"),
    ("HF_ENDPOINT", "http://127.0.0.1:99999"),
    ("TQDM_MININTERVAL", "slow"),
    ("TQDM_NCOLS", "80.5"),
]
USUAL = [
    ("HF_HUB_DOWNLOAD_TIMEOUT", "30"),
    ("HF_HUB_DOWNLOAD_TIMEOUT", "0"),
    ("HF_HUB_ETAG_TIMEOUT", " 10 "),
    ("HF_ENDPOINT", "https://hub.example.org"),
    ("TQDM_MININTERVAL", "0.5"),
    ("TQDM_DISABLE", "x"),
    ("HF_HUB_OFFLINE", "perhaps"),
]


def script(name: str, *words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A script in a Python of its own: one that is forked has imported the libraries already."""
    command = [sys.executable, str(ROOT / f"scripts/{name}.py"), *words]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name, text", ODD)
def test_an_odd_value_is_taken_out_and_named_once(name: str, text: str) -> None:
    environ = {name: text, "OTHER": "x"}
    (told,) = take_out(environ)
    assert environ == {"OTHER": "x"} and told.startswith(f"{name} (environment): ")
    assert told.endswith(f"unset {name}") and untold() == [told] and untold() == []


@pytest.mark.parametrize("name, text", USUAL)
def test_a_value_that_the_library_reads_stays(name: str, text: str) -> None:
    environ = {name: text}
    assert take_out(environ) == [] and environ == {name: text}
    code = "import huggingface_hub.constants, huggingface_hub.utils.tqdm"
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)


def test_every_variable_that_the_libraries_convert_is_checked() -> None:
    """Of the installed versions: a new one shows here."""
    source = Path(inspect.getsourcefile(constants) or "").read_text()
    converted = set(re.findall(r'(?:_as_int|int|float)\(os\.\w+(?:\.get)?\("(\w+)"', source))
    converted |= set(re.findall(r'ENDPOINT = os\.getenv\("(HF_ENDPOINT)"', source))
    bar = next(kind for kind in tqdm.__mro__ if kind.__module__ == "tqdm.std")
    numbers = {
        f"TQDM_{name.upper()}"
        for name, p in inspect.signature(bar.__init__).parameters.items()
        if type(p.default) in (int, float) or name in ("total", "ncols", "miniters", "nrows")
    }
    assert converted | numbers | {"TQDM_POSITION"} == set(READERS)


@pytest.mark.parametrize("name, text", ODD[:3] + ODD[5:7])
def test_an_odd_value_does_not_keep_stop_from_deleting(
    cloud: ShadeformServer, ledger: Ledger, name: str, text: str
) -> None:
    run_id = rented(cloud, ledger).run_id
    done = script("stop", run_id, "--now", "--yes", env=environment(cloud, ledger, **{name: text}))
    assert (done.returncode, deleted(cloud)) == (0, [True]), done.stderr
    assert done.stderr.count(f"note: not used: {name} (environment): ") == 1


GO_ON = ["check_status", "orphans", "limit", "wait", "why", "logs", "guard"]
REFUSE = ["launch", "resume", "upload", "verify", "offers", "report", "export"]
WORDS = {
    "guard": ["--once"],
    "limit": ["spend-limit=20"],
    "upload": ["base"],
    "export": ["skypilot"],
}


@pytest.mark.parametrize("command", [*GO_ON, *REFUSE])
def test_only_commands_that_spend_or_write_refuse(
    cloud: ShadeformServer, ledger: Ledger, command: str
) -> None:
    env = environment(cloud, ledger, HF_HUB_DOWNLOAD_TIMEOUT="30s", HF_TOKEN="hf_x")
    done = script(command, *WORDS.get(command, []), env=env)
    start = "note: not used" if command in GO_ON else "error"
    assert f"{start}: HF_HUB_DOWNLOAD_TIMEOUT (environment): '30s' is not" in done.stderr
    assert done.stderr.count("HF_HUB_DOWNLOAD_TIMEOUT (") == 1 and "a bug" not in done.stderr
    assert done.returncode == 2 or command in GO_ON


def test_doctor_has_a_line_about_an_odd_value(cloud: ShadeformServer, ledger: Ledger) -> None:
    env = environment(cloud, ledger, HF_HUB_ETAG_TIMEOUT="10s")
    done = script("doctor", env=env)
    assert done.returncode == 4 and "[FAILED] settings: HF_HUB_ETAG_TIMEOUT" in done.stdout


def test_a_command_without_settings_says_what_it_did_not_use(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "NANOLAN_HOME": str(tmp_path), "HF_HUB_ETAG_TIMEOUT": "10s"}
    done = script("runs", env=env)
    assert "note: not used: HF_HUB_ETAG_TIMEOUT (environment)" in done.stderr


def test_the_box_program_goes_on_without_an_odd_variable_of_its_image(tmp_path: Path) -> None:
    """Without a plan it ends at the rescue program, which is told why: not a library that could not be imported."""
    (tmp_path / "rescue.py").write_text("import sys; print('RESCUE', sys.argv[1:])")
    done = subprocess.run(
        [sys.executable, str(ROOT / "cloud/train.py"), str(tmp_path), str(tmp_path)],
        env={"HF_HUB_ETAG_TIMEOUT": "10s", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "not used: HF_HUB_ETAG_TIMEOUT (environment): '10s'" in done.stdout
    assert "the box program failed: FileNotFoundError" in done.stdout.splitlines()[-1]
