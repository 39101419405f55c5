"""The folder that the trainer writes, as a trainer might leave it: links to the keys, pipes, files without end, lies.

What root reads and uploads there must be the trainer's own; nothing may hold up the deletion of the machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from nanolan.box.phase_runner import run_trainer
from nanolan.box.sandbox import trainer_folder
from nanolan.box.speed_check import first_pace
from nanolan.box.upload.checkpoint import frozen_copy
from nanolan.box.upload.scores import note_results
from nanolan.box.watch.log import LogParts, new_lines, whole
from nanolan.box.watch.metrics import LAST_ROWS_BYTES, METRICS_BYTES, Row, last_row, metrics_of
from nanolan.box.watch.progress import read_trainer_beat
from nanolan.checkpoint.evaluation import gather, read_results, score_numbers
from nanolan.checkpoint.manifest import MANIFEST, read_whole, save_whole, whole_steps
from nanolan.errors import BadAnswer
from nanolan.redact import Mask, Secret
from nanolan.report.curves import read_metrics
from nanolan.run.record import PhaseReport, phase_report, read_receipt, to_json
from tests.support.core_fixtures import PLAN
from tests.support.pickle_fixtures import grown
from tests.support.report_fixtures import RECEIPT

KEY = "hf_the_token_of_the_box"
ROW = b'{"phase": "sft", "step": 3, "steps": 9, "loss": 1.5, "tok_per_s": 7.0, "left_s": 2.0}\n'


def to_the_keys(path: Path) -> None:
    """In its place a link to root's secrets."""
    secrets = path.parent.parent / "secrets.json"
    secrets.write_text(
        json.dumps(
            {"HF_TOKEN": KEY, "phase": "sft", "step": 3, "steps": 9, "stage": KEY, "loss": 1.0}
        )
        + "\n"
    )
    path.symlink_to(secrets)


def endless(path: Path) -> None:
    """10 GB, of which the disk holds none."""
    with path.open("wb") as f:
        f.truncate(10 << 30)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def deep(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\0" * 1000 + b"\n")


PLACED: dict[str, Callable[[Path], None]] = {
    "a link to the keys": to_the_keys,
    "10 GB": endless,
    "a pipe": pipe,
    "a device": device,
    "a folder": Path.mkdir,
    "deep": deep,
    "garbage": garbage,
    "nothing": lambda path: None,
}
READERS: dict[str, tuple[str, Callable[[Path], Any], Any]] = {
    "metrics, last row": ("metrics.jsonl", last_row, Row()),
    "metrics, pace": ("metrics.jsonl", lambda p: first_pace(p, "sft"), None),
    "heartbeat": ("heartbeat.json", read_trainer_beat, None),
    "results": ("evaluation-sft.json", read_results, {}),
    "samples": ("evaluation-sft.samples.json", lambda p: gather([p]), ()),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("reader", list(READERS))
@pytest.mark.parametrize("placed", list(PLACED))
def test_what_is_not_the_trainers_own_is_as_if_it_were_not_there(
    placed: str, reader: str, tmp_path: Path
) -> None:
    name, read, nothing = READERS[reader]
    trainer_folder(tmp_path).mkdir()
    PLACED[placed](trainer_folder(tmp_path) / name)
    before = grown()
    assert read(trainer_folder(tmp_path) / name) == nothing
    assert grown() - before < 100


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "placed", ["a link to the keys", "a pipe", "a device", "a folder", "nothing"]
)
def test_no_link_and_no_pipe_is_uploaded_as_metrics(placed: str, tmp_path: Path) -> None:
    trainer_folder(tmp_path).mkdir()
    PLACED[placed](trainer_folder(tmp_path) / "metrics.jsonl")
    assert metrics_of(tmp_path) is None


def test_metrics_without_end_are_cut_to_their_newest_rows(tmp_path: Path) -> None:
    trainer_folder(tmp_path).mkdir()
    with (trainer_folder(tmp_path) / "metrics.jsonl").open("wb") as f:
        f.truncate(10 << 30)
        f.seek(0, os.SEEK_END)
        f.write(b"\n" + ROW * 100)
    before = grown()
    sent = metrics_of(tmp_path)
    assert (
        sent == ROW * 100
        and len(sent) <= METRICS_BYTES
        and last_row(trainer_folder(tmp_path) / "metrics.jsonl").step == 3
    )
    assert grown() - before < 200, "MB"
    assert LAST_ROWS_BYTES < METRICS_BYTES and len(read_metrics(sent).rows) == 100


def test_a_log_that_a_trainer_floods_costs_no_more_than_its_two_ends(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as f:
        f.write(b"first line\n")
        f.truncate(10 << 30)
        f.seek(0, os.SEEK_END)
        f.write(b"\nlast line\n")
    before = grown()
    text = whole(tmp_path / "log", Mask([Secret(KEY)]))
    assert (
        text.startswith(b"first line\n")
        and text.endswith(b"last line\n")
        and len(text) < 11_000_000
    )
    assert new_lines(tmp_path / "log", 0)[0].endswith(b"last line\n") and grown() - before < 200


# ------------------------------------------------------------------ what root writes there
def test_a_job_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("root's")
    (tmp_path / "job.json").symlink_to(tmp_path / "plan.json")
    plan = msgspec.structs.replace(PLAN, trainer="this", processes=1)
    run_trainer(
        plan,
        {"a": 1},
        tmp_path / "job.json",
        tmp_path,
        host={"PATH": os.defpath},
        wandb_key=None,
        stop=lambda: None,
    )
    assert (tmp_path / "plan.json").read_text() == "root's" and not (
        tmp_path / "job.json"
    ).is_symlink()


def test_the_note_of_the_logs_parts_is_not_written_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    (tmp_path / "var/log").mkdir(parents=True)
    (tmp_path / "var/log/lanbot-training.log").write_text("a line\n")
    (tmp_path / "plan.json").write_text("root's")
    for name in ("log-parts.json", "log-parts.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "plan.json")
    parts = LogParts(PLAN, Mask([]), tmp_path / "log-parts.json")
    assert parts.next()
    parts.sent()
    assert (tmp_path / "plan.json").read_text() == "root's"


# ------------------------------------------------------------------ checkpoints
def a_step(out: Path, step: int = 5, **how: Any) -> Path:
    return save_whole(
        out,
        step,
        lambda at: (
            [(at / n).write_bytes(b"{}") for n in ("model_000005.pt", "meta_000005.json")] and None
        ),
        run_id=PLAN.run_id,
        phase="sft",
        **how,
    )


def swapped(folder: Path, name: str) -> None:
    """After it was found whole: in the place of a file, a link to the keys."""
    (folder / name).unlink()
    (folder.parent.parent / "secrets.json").write_text(json.dumps({"HF_TOKEN": KEY}))
    (folder / name).symlink_to(folder.parent.parent / "secrets.json")


@pytest.mark.parametrize("name", ["model_000005.pt", "meta_000005.json", MANIFEST])
def test_a_file_that_becomes_a_link_after_it_was_found_whole_is_not_uploaded(
    name: str, tmp_path: Path
) -> None:
    folder = a_step(tmp_path / "out")
    manifest = read_whole(folder)
    swapped(folder, name)
    with (
        pytest.raises(BadAnswer),
        frozen_copy(SimpleNamespace(work=tmp_path), "sft", folder, manifest),
    ):  # type: ignore[arg-type]
        pytest.fail("it would be uploaded")


def test_what_is_held_fast_is_not_changed_by_a_later_link(tmp_path: Path) -> None:
    folder = a_step(tmp_path / "out")
    manifest = read_whole(folder)
    with frozen_copy(SimpleNamespace(work=tmp_path), "sft", folder, manifest) as copy:  # type: ignore[arg-type]
        swapped(folder, "model_000005.pt")
        assert read_whole(copy).files == manifest.files and copy.parent == tmp_path


def test_a_folder_that_is_a_link_gives_nothing_away(tmp_path: Path) -> None:
    folder = a_step(tmp_path / "out")
    manifest = read_whole(folder)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/secrets.json").write_text(KEY)
    folder.replace(tmp_path / "moved")
    folder.symlink_to(tmp_path / "root")
    assert not list(whole_steps(tmp_path / "out"))
    with (
        pytest.raises((BadAnswer, OSError)),
        frozen_copy(SimpleNamespace(work=tmp_path), "sft", folder, manifest),
    ):  # type: ignore[arg-type]
        pytest.fail("it would be uploaded")


def test_the_keys_do_not_become_a_checkpoints_meta(tmp_path: Path) -> None:
    folder = a_step(tmp_path / "out")
    manifest = read_whole(folder)
    sent: list[Any] = []
    m = SimpleNamespace(
        heartbeat=SimpleNamespace(phases={}, set_phase=lambda *a: None),
        target=lambda phase: "chatsft_checkpoints/d20",
        plan=PLAN,
        token=Secret(KEY),
        deps=SimpleNamespace(
            hub=lambda *a, **k: SimpleNamespace(tree=sent.append, commit=lambda *a: sent.append(a))
        ),
    )
    swapped(folder, "meta_000005.json")
    with pytest.raises((BadAnswer, OSError)):
        note_results(m, "sft", folder, manifest, {"mmlu_acc": 0.5})  # type: ignore[arg-type]
    (folder / "meta_000005.json").unlink()
    (folder / "meta_000005.json").write_text(json.dumps({"HF_TOKEN": KEY}))
    with pytest.raises(BadAnswer, match="has changed"):
        note_results(m, "sft", folder, manifest, {"mmlu_acc": 0.5})  # type: ignore[arg-type]
    assert not sent


# ------------------------------------------------------------------ lies
LIES = (
    {"mmlu_acc": float("nan")},
    {"mmlu_acc": float("inf")},
    {"mmlu_acc": 1e300},
    {"mmlu_acc": 10**40},
    {"mmlu_acc": True},
    {"mmlu_acc": "0.5"},
    {"mmlu_acc": [1]},
    {"\ud800": 1.0},
    {"a\nb": 1.0},
    {"x" * 100: 1.0},
    {"<script>": 1.0},
    {"": 1.0},
    {"step": 5},
)


@pytest.mark.parametrize("results", LIES, ids=lambda r: ascii(r)[:40])
def test_a_result_that_is_no_number_is_not_in_the_receipt(results: dict[str, Any]) -> None:
    assert score_numbers(results) == {}


def test_a_receipt_with_what_a_trainer_claims_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(
        '{"mmlu_acc": NaN, "arc_easy_acc": 1e999, "gsm8k_acc": 0.25, "\\ud800": 1, "step": 9}'
    )
    phases = {"sft": PhaseReport("proven", measured=score_numbers(read_results(path)))}
    assert read_receipt(to_json(msgspec.structs.replace(RECEIPT, phases=phases))).phases[
        "sft"
    ].measured == {"gsm8k_acc": 0.25}


@pytest.mark.parametrize(
    "extra",
    [
        {"loss_end": float("nan")},
        {"loss_end": 10**400},
        {"val_loss": float("inf")},
        {"val_\ud800": 1.0},
        {"tokens": -5},
        {"loss_start": [1]},
        {"val_" + "x" * 200: 1.0},
        {"val_loss": float("nan")},
        {"tokens": 10**30},
    ],
    ids=lambda e: ascii(e)[:40],
)
def test_a_manifests_extra_makes_no_report_that_cannot_be_read(
    extra: dict[str, Any], tmp_path: Path
) -> None:
    manifest = read_whole(a_step(tmp_path / "out"))
    report = phase_report("proven", "f", replace(manifest, extra=extra))
    assert (
        read_receipt(to_json(msgspec.structs.replace(RECEIPT, phases={"sft": report}))).phases[
            "sft"
        ]
        == report
    )
