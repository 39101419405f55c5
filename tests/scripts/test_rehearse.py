"""The promise of the README: `rehearse` runs the whole road for real, in a world without keys and network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from filelock import FileLock

from nanolan.checkpoint.manifest import parse_manifest
from nanolan.sim.hub.server import HubServer
from nanolan.sim.world import REPO, World

ROOT = Path(__file__).resolve().parents[2]
# The same in all workers; not written in this file, which is itself part of the code that a box gets
MADE = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
CANARIES = {
    "SHADEFORM_API_KEY": f"canary-shadeform-{MADE}",
    "HF_TOKEN": f"hf_canary{MADE}",
    "WANDB_API_KEY": f"wandb-{MADE}",
    "HF_REPO": f"canary/{MADE}",
    "NOTIFY_URL": f"json://{MADE}.invalid/x",
    "SHADEFORM_API": f"https://{MADE}.invalid/v1",
    "HF_ENDPOINT": f"https://{MADE}.invalid",
}

Rehearsed = tuple[subprocess.CompletedProcess[str], Path]


def run(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=280
    )


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsed:
    """One rehearsal of sft with the real trainer, with keys in the environment and without a network; one for all workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    result = shared / "rehearsal.json"
    with FileLock(shared / "rehearsal.lock"):
        if not result.exists():
            result.write_text(json.dumps(rehearse(shared / "rehearsal")))
    return subprocess.CompletedProcess(**json.loads(result.read_text())), shared / "rehearsal"


def rehearse(folder: Path) -> dict[str, object]:
    env = {
        **os.environ,
        **CANARIES,
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    return vars(run("scripts/rehearse.py", "phase=sft", f"--folder={folder}", env=env))


def receipt_of(folder: Path) -> dict[str, object]:
    return json.loads(next(folder.glob("run-*/files/receipt.json")).read_text())


def test_it_succeeds_with_the_loss_falling(rehearsal: Rehearsed) -> None:
    done, folder = rehearsal
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert_trained(folder, {"sft"})


def assert_trained(folder: Path, expected: set[str]) -> None:
    phases = receipt_of(folder)["phases"]
    assert isinstance(phases, dict) and set(phases) == expected
    for phase in phases.values():
        assert phase["state"] == "proven"
        assert phase["loss_end"] < phase["loss_start"]


def test_the_checkpoint_it_left_is_whole_and_in_nanochats_layout(rehearsal: Rehearsed) -> None:
    assert_whole(rehearsal[1], "chatsft_checkpoints/d20")


def assert_whole(folder: Path, place: str) -> None:
    files = next(folder.glob(f"run-*/files/{place}"))
    manifest = parse_manifest((files / "manifest.json").read_bytes())
    step = f"{manifest.step:06d}"
    assert {f.path for f in manifest.files} == {f"model_{step}.pt", f"meta_{step}.json"}
    assert json.loads((files / f"meta_{step}.json").read_text())["model_config"]["n_layer"] == 2
    assert {p.name for p in files.iterdir()} == {"manifest.json", *(f.path for f in manifest.files)}


def test_it_prints_timeline_bill_losses_and_where_everything_lies(rehearsal: Rehearsed) -> None:
    done, folder = rehearsal
    assert re.search(r"^ +\d+\.\ds  boot: run ", done.stdout, re.M)
    assert re.search(r"^ +\d+\.\ds  sft step +\d+/24", done.stdout, re.M)
    assert re.search(r"sft +proven +chatsft_checkpoints/d20 step 24 +loss \d", done.stdout)
    assert re.search(r"Simulated bill: \$0\.\d+", done.stdout)
    assert "Instances left running: 0" in done.stdout
    for name in ("log", "metrics", "receipt", "report", "sft"):
        place = re.search(rf"^  {name} +(\S.*)$", done.stdout.partition("Simulated bill")[2], re.M)
        assert place and Path(place[1]).exists(), name


def test_its_report_has_curves_scores_and_answers_and_the_hub_a_model_card(
    rehearsal: Rehearsed,
) -> None:
    _, folder = rehearsal
    html = next(folder.glob("run-*/files/report.html")).read_text()
    for part in (
        "Succeeded: $",
        "<svg",
        "ChatCORE",
        "Who are you?",
        "sft training",
        "nanochat d20",
    ):
        assert part in html, part
    hub = HubServer(next(folder.glob("run-*/hub")))
    assert "| `chatsft_checkpoints/d20` | sft | 24 |" in hub.read(REPO, "README.md").decode()


@pytest.mark.slow
def test_a_rehearsal_of_two_phases_predicts_the_next_ones_bill_within_a_factor_of_two(
    tmp_path: Path,
) -> None:
    first = run("scripts/rehearse.py", "phase=mid+sft", f"--folder={tmp_path}")
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert_trained(tmp_path, {"mid", "sft"})
    for place in ("mid_checkpoints/d20", "chatsft_checkpoints/d20"):
        assert_whole(tmp_path, place)
    assert receipt_of(tmp_path)["predicted"] is None, "the first one has nothing to learn from"
    again = run("scripts/rehearse.py", "phase=mid+sft", f"--folder={tmp_path}")
    receipt = receipt_of(tmp_path)
    predicted, spent = receipt["predicted"], receipt["spent_cents"]
    assert isinstance(predicted, dict) and isinstance(spent, int) and again.returncode == 0
    assert spent / 2 <= predicted["likely_cents"] <= spent * 2
    assert re.search(
        r"^Bill: likely \$0\.\d+ in \d+ s, .*measured by earlier runs", again.stderr, re.M
    )
    assert re.search(r"bill +predicted \$0\.\d+ \(", again.stdout)


def test_real_keys_and_addresses_in_the_environment_are_never_used(rehearsal: Rehearsed) -> None:
    done, folder = rehearsal
    for value in CANARIES.values():
        assert value not in done.stdout + done.stderr
        for path in (
            p
            for p in folder.rglob("*")
            if p.is_file() and ".venv" not in p.parts and p.stat().st_size < 5_000_000
        ):
            assert value.encode() not in path.read_bytes(), path


@pytest.mark.slow  # the refusal itself is in the quick set
def test_what_launch_refuses_is_refused_with_launchs_exit_code(tmp_path: Path) -> None:
    done = run("scripts/rehearse.py", "phase=agent_rl", f"--folder={tmp_path}")
    assert done.returncode == 2
    assert "agent_rl is not a phase of nanolan's trainer" in done.stderr


@pytest.mark.slow  # just rehearse-faults plays it too
def test_a_fault_in_the_cloud_is_rehearsed_with_its_verdict(tmp_path: Path) -> None:
    done = run("scripts/rehearse.py", "fault=gpu-count-wrong:7", f"--folder={tmp_path}")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "8 GPUs were rented, nvidia-smi shows 7" in done.stdout
    assert "Instances left running: 0" in done.stdout
    why = done.stdout.partition("\njust why\n")[2]
    assert "  cause     8 GPUs were rented, nvidia-smi shows 7\n" in why and re.search(
        r"next +just resume [0-9a-f]{8}\n", why
    )
    left = json.loads(next(tmp_path.glob("run-*/files/postmortem.json")).read_bytes())
    assert (
        left["reason"] == "wrong_gpus"
        and left["seen"]["gpus"]
        and left["seen"]["memory"]
        and "boot: run" in left["log"][0]
    )


@pytest.mark.slow  # each trains for real; tests/launch/test_failover.py has many of them without
@pytest.mark.parametrize(
    "fault, why",
    [("create-out-of-stock@1", "just sold out"), ("gpu-count-wrong:7@1", "nvidia-smi shows 7")],
)
def test_a_rehearsal_fails_over_to_the_next_offer(tmp_path: Path, fault: str, why: str) -> None:
    done = run("scripts/rehearse.py", f"fault={fault}", "max-price=36", f"--folder={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        f"attempt 1: 8x B200 at hyperstack/canada-1: {'' if 'sold' in why else 'instance'}"
        in done.stderr
        and why in done.stderr
    )
    assert (
        "machine   8x B200 at datacrunch/FIN-01: gone" in done.stdout
        and "Instances left running: 0" in done.stdout
    )


@pytest.mark.slow
def test_without_a_key_on_its_machines_it_fails_over_and_a_guard_deletes_the_one_that_is_done(
    tmp_path: Path,
) -> None:
    done = run(
        "scripts/rehearse.py",
        "self-delete=off",
        "fault=gpu-count-wrong:7@1",
        "max-price=36",
        f"--folder={tmp_path}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nvidia-smi shows 7" in done.stderr and "WITHOUT A GUARD IT BILLS UNTIL" in done.stderr
    assert re.search(
        r"s  guard: DELETING instance \S+ of run [0-9a-f]{8} .*: its run is over \(succeeded\)$",
        done.stdout,
        re.M,
    )
    assert "it waits for just guard" in done.stdout and "Instances left running: 0" in done.stdout


@pytest.mark.slow
def test_a_launch_that_nothing_comes_of_ends_the_rehearsal_with_its_exit_code(
    tmp_path: Path,
) -> None:
    done = run("scripts/rehearse.py", "fault=create-out-of-stock", f"--folder={tmp_path}")
    assert (
        done.returncode == 3
        and "The launch failed; nothing was running, nothing was rented" in done.stderr
    )


@pytest.mark.slow
def test_the_local_hub_has_the_guides_structure_and_the_run_folder(
    tmp_path: Path, seed_cache: Path
) -> None:
    with World(
        tmp_path,
        cache=seed_cache,
        trainer="tests.support.standin_trainer",
        setup="light",
        recipe={},
    ) as world:
        done = run("scripts/launch.py", "--yes", "--json", env=world.env())
        assert done.returncode == 0, done.stderr
        run_id = json.loads(done.stdout)["run_id"]
        watched = run("scripts/check_status.py", "--watch", "1", env=world.env())
        assert watched.returncode == 0, watched.stdout + watched.stderr
        files = set(world.hub.files(REPO))
        first = world.hub.read(REPO, f"runs/{run_id}/log/a1-part-0001.log").decode()
        whole = world.hub.read(
            REPO, next(f for f in files if f.startswith("logs/success-"))
        ).decode()
        logs = run("scripts/logs.py", "-n", "all", env=world.env())
    for log in (first, whole, logs.stdout):
        assert log.splitlines()[0].endswith(f"boot: run {run_id}"), (
            "from the first second of the boot"
        )
    assert whole.startswith(first) and "verdict: succeeded" in whole and logs.stdout == whole
    assert {
        f"runs/{run_id}/{n}"
        for n in ("plan.json", "code.bundle", "progress.json", "metrics.jsonl", "receipt.json")
    } <= files
    assert {
        "tokenizer/tokenizer.pkl",
        "identity_conversations.jsonl",
        "chatsft_checkpoints/d20/manifest.json",
    } <= files
    assert any(
        f.startswith("logs/success-lanbot-sft-") and f.endswith(f"{run_id}.log") for f in files
    )
