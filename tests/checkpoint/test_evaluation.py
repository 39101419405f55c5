"""Evaluation results are added to a checkpoint's meta, and the manifest is updated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanolan.checkpoint.evaluation import read_results, score_numbers, with_results
from nanolan.checkpoint.manifest import Manifest, hash_bytes

META = json.dumps(
    {
        "step": 90,
        "val_loss": 1.5,
        "mmlu_acc": None,
        "arc_easy_acc": None,
        "model_config": {"n_layer": 2},
    }
).encode()
MANIFEST = Manifest(
    "ab12cd34",
    "sft",
    90,
    (hash_bytes("model_000090.pt", b"m"), hash_bytes("meta_000090.json", META)),
)
RESULTS = {
    "step": 90,
    "scope": "quick",
    "mmlu_acc": 0.31,
    "val_loss": 9.9,
    "chatcore": 0.2,
    "not_measured": {"GSM8K": "no data"},
}


def test_results_fill_nanochats_keys_and_are_kept_under_evaluation() -> None:
    manifest, data = with_results(META, MANIFEST, RESULTS)
    meta = json.loads(data)
    assert (
        meta["mmlu_acc"] == 0.31 and meta["arc_easy_acc"] is None and meta["evaluation"] == RESULTS
    )
    assert meta["val_loss"] == 1.5, "what the trainer measured is not replaced"
    assert meta["model_config"] == {"n_layer": 2}
    assert (
        manifest.files == (MANIFEST.files[0], hash_bytes("meta_000090.json", data))
        and manifest.step == 90
    )


def test_only_numbers_count_as_measured() -> None:
    assert score_numbers(RESULTS | {"flag": True, "chatcore_tasks": 5}) == {
        "mmlu_acc": 0.31,
        "val_loss": 9.9,
        "chatcore": 0.2,
        "chatcore_tasks": 5.0,
    }


@pytest.mark.parametrize("text", [None, "", "{", "5", "[1]"])
def test_unreadable_results_are_empty(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "r.json").write_text(text)
    assert read_results(tmp_path / "r.json") == {}
