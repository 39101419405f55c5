"""`just launch` with a checkout of one's own: what a dry run shows, and what is refused with nothing rented."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from nanolan.sim.world import World
from tests.support.checkouts import FILES_2026, TOKEN, start, write
from tests.support.core_fixtures import creates, script, without
from tests.support.launch_script_fixtures import commits, entries, launch
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures

SHA = "0" * 40
FORK = "tests/forks/2026"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fork/ is a good checkout; the others each have one thing wrong."""
    made = tmp_path_factory.mktemp("forks")
    start(made / "fork")
    start(made / "key", FILES_2026 | {"scripts/key.py": f"k = '{TOKEN}'\n"})
    write(made / "plain", {n: c for n, c in FILES_2026.items()})
    return made


def test_a_dry_run_of_a_checkout_prints_its_checks_and_changes_nothing(world: World) -> None:
    seen = len(world.hub.log)
    words = ("phase=sft+rl", "gpu=H100", "train.sft.init-lr-frac=0.5", "train.run=a b")
    done = launch(world, "--dry-run", f"trainer={FORK}", *words)
    for text in (
        "[  ok  ] trainer: nanochat-2026: 2026 at ",
        "[  --  ] sft runs: scripts.chat_sft ",
        "--init-lr-frac=0.5",
        "'--run=a b'",
        "[  --  ] sft saves: the weights at a stop and every save-minutes, not the place",
        "[  --  ] rl runs: scripts.chat_rl ",
        "[  ok  ] trainer, batch: fits ",
        "base_checkpoints/d20",
        "no figures for this trainer",
        "To rent it: just launch ",
        " train.sft.init-lr-frac=0.5 'train.run=a b'\n",
    ):
        assert text in done.stderr, (text, done.stderr)
    tags = json.loads(done.stdout)["tags"]
    assert [t.rsplit("/", 2)[1] for t in tags if "nanolan-out" in t] == [
        "chatsft_checkpoints",
        "chatrl_checkpoints",
    ]
    assert done.returncode in (0, 4) and "Traceback" not in done.stderr
    assert creates(world.cloud) == 0 and entries(world) == [] and not commits(world, seen)


@pytest.mark.slow  # whole commands; tests/trainers/ has the reading
def test_what_it_says_to_rent_it_means_the_same(world: World, folder: Path) -> None:
    """The line is typed again as it is printed."""
    env = without(world.env(), "NANOLAN_REHEARSAL") | {"NANOLAN_CALLED_FROM": str(folder)}
    words = ("trainer=fork", 'train.run=it\'s "a"=b', "train.init-lr-frac=.5")
    done = script("launch", "--dry-run", *words, env=env)
    (line,) = (x for x in done.stderr.splitlines() if x.startswith("To rent it: "))
    again = script("launch", "--dry-run", *shlex.split(line)[5:], env=env)
    runs = [[x for x in d.stderr.splitlines() if "sft runs" in x] for d in (done, again)]
    assert runs[0] == runs[1] != [] and "--init-lr-frac=0.5" in runs[0][0]


WRONG = [
    ("trainer=fork phase=mid", 2, "its sft starts from base. Use phase=sft"),
    ("trainer=fork train.int-lr-frac=1", 2, "did you mean init-lr-frac?"),
    ("trainer=fork train.run", 2, "train.run has no value"),
    (f"trainer=fork train.run={TOKEN}", 4, "train.NAME=VALUE, line"),
    ("train.run=x", 2, "is for a checkout of yours: give trainer="),
    ("trainer=nowhere", 2, "'nowhere' is no folder here"),
    ("trainer=~nobody-here", 2, "is no folder here"),
    ("trainer=", 2, "trainer is empty"),
    ("trainer=plain", 4, "is not a git checkout with a commit"),
    ("trainer=key", 4, "scripts/key.py, line 1"),
    (f"trainer=https://me:{TOKEN}@github.com/me/x@{SHA}", 2, "leave the name and the token out"),
    (f"trainer=file:///nowhere/x@{SHA}", 4, "git fetch of file:///nowhere/x"),
]


@pytest.mark.parametrize("words, code, said", WRONG, ids=lambda v: str(v)[:40])
def test_what_is_wrong_is_one_line_and_nothing_is_rented(
    world: World, folder: Path, words: str, code: int, said: str
) -> None:
    seen = len(world.hub.log)
    done = launch(world, "--yes", *words.split(), NANOLAN_CALLED_FROM=str(folder))
    assert done.returncode == code and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "a bug in nanolan" not in done.stderr
    assert TOKEN not in done.stderr and "nanolan-fork-" not in done.stderr
    assert creates(world.cloud) == 0 and entries(world) == [] and not commits(world, seen)


def test_a_batch_that_does_not_fit_the_gpus_fails_its_check_before_renting(
    world: World, folder: Path
) -> None:
    env = without(world.env(), "NANOLAN_REHEARSAL") | {"NANOLAN_CALLED_FROM": str(folder)}
    words = ("trainer=fork", "train.device-batch-size=48", "gpu=B200:8")
    done = script("launch", "--yes", "--no-wait", *words, env=env)
    assert done.returncode == 4 and creates(world.cloud) == 0 and entries(world) == []
    assert "[FAILED] trainer, batch: sft: total_batch_size=524288 is no multiple" in done.stderr


@pytest.mark.slow  # whole commands; tests/trainers/ has the reading
def test_the_settings_file_names_the_trainer_too(world: World, folder: Path) -> None:
    path = folder / "settings.env"
    path.write_text(
        "TRAINER=fork\nTRAINING_PHASE=all\nTRAIN_OPTIONS='run=x sft.max-seq-len=1024'\n"
    )
    path.chmod(0o600)
    env = {"NANOLAN_ENV_FILE": str(path), "NANOLAN_CALLED_FROM": "/"}
    said = launch(world, "--dry-run", **env).stderr
    assert "trainer: nanochat-2026: fork at" in said and "--max-seq-len=1024" in said
    done = script("doctor", "--json", env=world.env() | env)
    checks = {c["name"]: c["text"] for c in _all_checks(json.loads(done.stdout))}
    assert "phase=sft+rl" in checks["settings"], done.stdout
    done = script("train_here", "--device", "cpu", env=world.env() | env)
    assert done.returncode == 2 and "set TRAINER=nanolan" in done.stderr


def _all_checks(found: object) -> list[dict[str, str]]:
    """Every check in the doctor's JSON, wherever it is."""
    if isinstance(found, dict):
        own = [found] if "name" in found and "text" in found else []
        return own + [c for v in found.values() for c in _all_checks(v)]
    return [c for v in found for c in _all_checks(v)] if isinstance(found, list) else []
