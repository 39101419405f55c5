"""`just upload` as a user types it, against a local Hub: checked first, sent once, proven, and never over other content."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.hub.client import Hub
from nanolan.hub.layout import BY_HAND, verify
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from nanolan.sim.hub.state import READER, WRITER
from nanolan.sim.seed import _cached
from tests.hub.test_upload_set import optimizer
from tests.support.core_fixtures import script, started, until
from tests.support.terminal import at_terminal

REPO, BASE = "me/lanbot-checkpoints", "base_checkpoints/d20"


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory, seed_cache: Path) -> Path:
    """A folder laid out as NANOCHAT_BASE_DIR."""
    return _cached(seed_cache, "d20") / "model"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", xet=True) as hub:
        yield hub


@pytest.fixture
def env(hub: HubServer, tmp_path: Path, here: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR", "LANG")}
    return (
        kept
        | hub.env(tmp_path / "hf-home")
        | {
            "HF_REPO": REPO,
            "NANOCHAT_BASE_DIR": str(here),
            "NANOLAN_ENV_FILE": os.devnull,
            "NANOLAN_HOME": str(tmp_path / "home"),
        }
    )


def commits(hub: HubServer) -> int:
    return sum(h["method"] == "POST" and "/commit/" in h["path"] for h in hub.log)


def test_one_command_uploads_everything_and_creates_a_private_repo(
    hub: HubServer, env: dict[str, str]
) -> None:
    done = script("upload", "base", "tokenizer", "data", env=env)
    assert done.returncode == 0, done.stderr
    assert f"created {REPO}, private" in done.stderr and "just doctor" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "proven",
        "uploaded",
        "uploaded",
    ]
    loaded = hub.store.load("model", REPO)
    assert loaded and loaded.private
    assert {
        f"{BASE}/manifest.json",
        "tokenizer/tokenizer.pkl",
        "tokenizer/token_bytes.pt",
        "identity_conversations.jsonl",
    } <= set(hub.files(REPO))
    proof = verify(Hub(hub.url, Secret(WRITER)), REPO, BASE)
    assert (proof.manifest.run_id, proof.manifest.phase, proof.manifest.step) == (
        BY_HAND,
        "base",
        10,
    )


def test_a_repeated_upload_sends_nothing_and_says_so(hub: HubServer, env: dict[str, str]) -> None:
    assert script("upload", "base", "tokenizer", "data", env=env).returncode == 0
    before = commits(hub)
    done = script("upload", "base", "tokenizer", "data", env=env)
    assert done.returncode == 0 and commits(hub) == before == 3
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == ["already there"] * 3


def test_for_files_uploaded_by_other_means_only_the_manifest_is_sent(
    hub: HubServer, env: dict[str, str], here: Path
) -> None:
    hub.put(REPO, {f"{BASE}/{p.name}": p for p in (here / BASE).iterdir()})
    done = script("upload", "base", env=env)
    assert done.returncode == 0 and done.stdout.startswith("proven") and commits(hub) == 1


def test_the_proven_checkpoint_of_a_run_is_not_sent_again(
    hub: HubServer, env: dict[str, str], here: Path
) -> None:
    hub.put(
        REPO, {f"mid_checkpoints/d20/{p.name}": p for p in (here / "mid_checkpoints/d20").iterdir()}
    )
    done = script("upload", "mid", env=env)
    assert done.returncode == 0 and done.stdout.startswith("already there") and commits(hub) == 0


@pytest.mark.parametrize(
    "there, what",
    [
        ({f"{BASE}/model_000010.pt": b"another"}, "base"),
        ({f"{BASE}/model_000999.pt": b"a later step"}, "base"),
        ({"tokenizer/tokenizer.pkl": b"another"}, "tokenizer"),
        ({"identity_conversations.jsonl": b"another"}, "data"),
    ],
    ids=str,
)
def test_other_content_is_overwritten_only_with_replace(
    hub: HubServer, env: dict[str, str], there: dict[str, bytes], what: str
) -> None:
    hub.put(REPO, there)
    done = script("upload", what, env=env)
    (path,) = there
    assert (
        done.returncode == 2
        and path in done.stderr
        and "--replace" in done.stderr
        and commits(hub) == 0
    )
    assert hub.read(REPO, path) == there[path]
    assert script("upload", what, "--replace", env=env).returncode == 0
    assert path not in hub.files(REPO) or hub.read(REPO, path) != there[path]
    if what == "base":
        assert verify(Hub(hub.url, Secret(WRITER)), REPO, BASE).manifest.step == 10


def test_another_folder_or_repo_can_be_named(
    hub: HubServer, env: dict[str, str], here: Path
) -> None:
    done = script(
        "upload", "sft", str(here / BASE), "output-tag=d20-exp1", "--repo", "me/other", env=env
    )
    assert done.returncode == 0 and "chatsft_checkpoints/d20-exp1/manifest.json" in hub.files(
        "me/other"
    )
    assert "HF_REPO=me/other in .env" in done.stderr


def test_a_public_repo_is_reported(hub: HubServer, env: dict[str, str]) -> None:
    hub.put(REPO, {"README.md": b"x"}, private=False)
    assert "PUBLIC" in script("upload", "tokenizer", env=env).stderr


@pytest.mark.slow  # a whole command
def test_the_optimizer_is_sent_only_with_optim(
    hub: HubServer, env: dict[str, str], here: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "with-optim"
    folder.mkdir()
    for p in (here / BASE).iterdir():
        (folder / p.name).symlink_to(p)
    (folder / "optim_000010_rank0.pt").write_bytes(optimizer(2_000_000))
    assert (
        "2.0 MB of optimizer are not sent" in script("upload", "base", str(folder), env=env).stderr
    )
    assert f"{BASE}/optim_000010_rank0.pt" not in hub.files(REPO)
    assert script("upload", "base", str(folder), "--optim", env=env).returncode == 0
    assert f"{BASE}/optim_000010_rank0.pt" in hub.files(REPO)


@pytest.mark.parametrize(
    "words, change, code, says",
    [
        (["base", "/nowhere"], {}, 2, "/nowhere does not exist"),
        (["nonsense"], {}, 2, "say what to upload"),
        ([], {}, 2, "say what to upload"),
        (["base", "a", "b"], {}, 2, "at most one path"),
        (["base"], {"HF_REPO": ""}, 2, "HF_REPO is not set"),
        (["base"], {"HF_TOKEN": ""}, 4, "HF_TOKEN is not set"),
        (["base"], {"HF_TOKEN": READER}, 4, "may not create it"),
        (["base", "--repo", "nonsense"], {}, 2, "not a Hub repo"),
    ],
    ids=str,
)
def test_an_error_is_one_line_with_the_fix(
    hub: HubServer,
    env: dict[str, str],
    words: list[str],
    change: dict[str, str],
    code: int,
    says: str,
) -> None:
    done = script("upload", *words, env=env | change)
    assert (
        done.returncode == code
        and says in done.stderr
        and "Traceback" not in done.stderr
        and commits(hub) == 0
    )


def test_a_repo_that_the_token_may_not_write_is_refused_before_anything_is_sent(
    hub: HubServer, env: dict[str, str]
) -> None:
    hub.put(REPO, {"README.md": b"x"})
    done = script("upload", "base", env=env | {"HF_TOKEN": READER})
    assert done.returncode == 4 and "HTTP 403" in done.stderr and commits(hub) == 0


def test_ctrl_c_says_what_is_there_and_the_same_command_goes_on(
    hub: HubServer, env: dict[str, str]
) -> None:
    hub.put(REPO, {"README.md": b"x"})
    hub.fault("POST .*/commit/main", "stall", seconds=30)
    with started("upload", "base", env=env) as process:
        until(lambda: commits(hub) or [f for f in hub.faults if f.times == 0])
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (
        process.returncode == 130
        and "base is not there yet" in err
        and "The same command continues" in err
        and out == ""
    )
    hub.faults.clear()
    assert script("upload", "base", env=env).stdout.startswith("proven")


@pytest.mark.slow  # a whole command
def test_a_hub_that_fails_for_a_while_is_retried(hub: HubServer, env: dict[str, str]) -> None:
    hub.put(REPO, {"README.md": b"x"})
    hub.fault("POST .*/commit/main", status=503, times=2)
    done = script("upload", "base", env=env)
    assert (
        done.returncode == 0 and "trying again" in done.stderr and done.stdout.startswith("proven")
    )


@pytest.mark.slow
def test_in_a_log_a_long_upload_gets_a_line_with_what_has_been_sent(
    hub: HubServer, env: dict[str, str]
) -> None:
    hub.fault(r"POST /api/models/me/lanbot-checkpoints/commit", "stall", seconds=14)
    done = script("upload", "base", env=env)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("  base: ")]
    assert len(lines) == 1 and re.match(r"  base: [\d,]+ of [\d,]+ MB \(\d+%\)", lines[0])


def test_at_a_terminal_a_progress_bar_is_shown(env: dict[str, str]) -> None:
    code, seen, out = at_terminal("upload", "base", env=env)
    assert code == 0 and out.startswith(b"proven")
    assert b"?[" not in seen, "a cursor move that was taken for a text of the Hub"
    assert re.search(rb"base .*[\d.]+/[\d.]+ [kM]?B", seen), repr(seen)[-1500:]


def test_the_checkpoint_folder_is_not_changed(env: dict[str, str], here: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in (here / BASE).iterdir()}
    assert script("upload", "base", env=env).returncode == 0
    assert {p.name: p.stat().st_mtime_ns for p in (here / BASE).iterdir()} == before
    assert json.loads((here / BASE / "meta_000010.json").read_text())["model_config"]
