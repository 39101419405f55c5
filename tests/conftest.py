"""What all tests share: no keys, no caches and no proxies of this machine get in, and no process is left behind."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

gc.disable()  # until all tests are collected
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
pytest_plugins = ["tests.support.canary"]

# Read at import time by the Hub client; the tests' own programs get theirs from World.env()
OURS = (
    "SHADEFORM",
    "HF_",
    "HUGGING_FACE",
    "WANDB",
    "NANOLAN",
    "RUNS_REPO",
    "SPEND_LIMIT",
    "TRAINING_PHASE",
    "RUN_NAME",
    "GPU",
    "NUM_GPUS",
    "MODEL_TAG",
    "OUTPUT_TAG",
    "CLOUD",
    "REGION",
    "INSTANCE_TYPE",
    "DEVICE_BATCH_SIZE",
    "MAX_DURATION",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
)
for name in [n for n in os.environ if n.startswith(OURS) and not n.startswith("CLOUDSDK")]:
    del os.environ[name]
os.environ.update(
    {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NANOLAN_ENV_FILE": os.devnull,
        "WANDB_MODE": "disabled",
    }
)


# A shell or nohup that starts us in the background has us ignore Ctrl-C or a hangup, and so would all that we start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Caches and ledgers of the tests lie in tmp; set before anything imports the Hub client, which reads them then
HOMES = tempfile.TemporaryDirectory(prefix="nanolan-tests-")
os.environ.update({name: f"{HOMES.name}/{name.lower()}" for name in ("HF_HOME", "NANOLAN_HOME")})


# Ten seconds and more each, and mostly waiting
LONG = (
    "test_every_promise_holds_in_40_histories",
    "test_it_succeeds_with_the_loss_falling",
    "test_a_job_whose_machine_is_taken_away_goes_on_on_the_next_one_and_succeeds",
    "test_from_one_command_to_two_proven_phases_and_the_machine_gone_through_a_reboot",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each worker begins with a long test: at the end it would run alone."""
    long = [item for item in items if item.name in LONG]
    if len(long) == len(LONG):  # xdist gives each worker as many tests, in their order
        rest = [item for item in items if item not in long]
        share = len(rest) // len(long)
        items[:] = [i for n, x in enumerate(long) for i in (x, *rest[n * share :][:share])]
        items += rest[len(long) * share :]


def pytest_collection_finish() -> None:
    """What was loaded lives to the end: looking through it again and again costs a tenth of a process's time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every process that the tests started is gone when they end: their children, and whatever lives in their tmp."""
    yield
    base = str(tmp_path_factory.getbasetemp())
    left = [
        *psutil.Process().children(recursive=True),
        *(p for p in psutil.process_iter() if _lives_in(p, base)),
    ]
    _, alive = psutil.wait_procs(
        [p for p in left if "resource_tracker" not in _command(p)], timeout=10
    )
    assert not alive, f"left behind: {[(p.pid, _command(p)) for p in alive]}"


@pytest.fixture(autouse=True, scope="session")
def forked_programs_end(nothing_left_behind: None) -> Iterator[None]:
    """The processes that programs were forked from end with the tests."""
    from tests.support.forked_python import OPENED

    with OPENED:
        yield


def _lives_in(p: psutil.Process, base: str) -> bool:
    """A process whose environment points into the tests' tmp, but for ourselves."""
    try:
        return p.pid != os.getpid() and any(
            v.startswith(base) for k, v in p.environ().items() if k in ("BOX_ROOT", "HF_HOME")
        )
    except (psutil.Error, OSError):
        return False


def _command(p: psutil.Process) -> str:
    try:
        return " ".join(p.cmdline())[:200]
    except psutil.Error:
        return ""


@pytest.fixture(autouse=True)
def secrets_of_one_test() -> Iterator[None]:
    """A process masks every secret that it has ever known: one of another test may be an ordinary word here."""
    from nanolan import redact

    before = dict(redact._values)
    yield
    redact._values.clear()
    redact._values.update(before)
    redact._known = -1


@pytest.fixture(autouse=True)
def clock_of_one_test() -> Iterator[None]:
    """A process goes by the clock of the service that answered last: another test's may be years off."""
    from nanolan.times import SERVICE_CLOCK

    SERVICE_CLOCK.forget()
    yield
    SERVICE_CLOCK.forget()


@pytest.fixture(scope="session")
def seed_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of a rehearsal's Hub, built by the first test that needs it and shared by all workers."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "seed-cache"
