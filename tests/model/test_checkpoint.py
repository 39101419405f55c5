"""Checkpoints: the newest step, whole files, refused damage, and a save that nanochat's layout describes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nanolan.checkpoint.manifest import read_whole
from nanolan.errors import BadAnswer
from nanolan.model import checkpoint
from nanolan.model.checkpoint import MAX_META_BYTES, load, meta_of, newest, read_state


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


@pytest.fixture
def base(tiny: Path, tmp_path: Path) -> Path:
    """A base checkpoint that may be spoiled."""
    return Path(shutil.copytree(tiny / "base_checkpoints" / "d20", tmp_path / "base"))


def test_the_newest_step_counts_by_number_not_by_name(tmp_path: Path) -> None:
    for name in (
        "model_000009.pt",
        "model_1000000.pt",
        "model_999999.pt",
        "model_x.pt",
        "meta_1000000.json",
        "meta_2000000.json",
    ):
        (tmp_path / name).touch()
    assert newest(tmp_path) == 1_000_000


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadAnswer, match="no model_.*pt there"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["tiny", "tiny_compiled_prefix", "tiny_cuda_like"])
def test_nanochats_files_load_as_fp32_on_the_cpu(fixtures: Path, name: str) -> None:
    loaded = load(fixtures / name / "base_checkpoints" / "d2")
    assert loaded.step == (12 if name == "tiny" else 7)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert not any("_orig_mod" in key for key in loaded.model.state_dict())


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_truncated_model_file_is_refused(base: Path, keep: float) -> None:
    path = base / "model_000010.pt"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(BadAnswer, match="model_000010.pt(: cut off| is an empty file)"):
        load(base)


@pytest.mark.parametrize("thing", [[1], torch.zeros(2), {"a": 1}, {1: torch.zeros(1)}], ids=str)
def test_a_model_file_without_named_tensors_is_refused(base: Path, thing: Any) -> None:
    torch.save(thing, base / "model_000010.pt")
    with pytest.raises(BadAnswer, match="not a dictionary of tensors"):
        load(base)


def test_a_model_file_that_carries_code_is_refused_and_not_run(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base)
    torch.save({"lm_head.weight": Evil()}, base / "model_000010.pt")
    with pytest.raises(BadAnswer, match="refused, it holds more than tensors .*posix.mkdir"):
        read_state(base / "model_000010.pt")
    assert not (base / "evil").exists()


def test_a_wrong_shape_names_file_and_tensor(base: Path) -> None:
    state = torch.load(base / "model_000010.pt", weights_only=True)
    state["transformer.h.1.mlp.c_fc.weight"] = torch.zeros(3, 3)
    torch.save(state, base / "model_000010.pt")
    with pytest.raises(
        BadAnswer, match=r"model_000010.pt: transformer.h.1.mlp.c_fc.weight is \(3, 3\)"
    ):
        load(base)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no meta_000010.json.*upload both"),
        ("", "an empty file"),
        ("{", "not JSON"),
        ("[]", "has no model_config"),
        ("{}", "has no model_config"),
        ('{"model_config": {}}', "sequence_len is None"),
        (" " * (MAX_META_BYTES + 1), "larger than"),
    ],
)
def test_a_bad_meta_file_is_named(base: Path, text: str | None, says: str) -> None:
    path = base / "meta_000010.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadAnswer, match=says) as e:
        load(base)
    assert "meta_000010.json" in str(e.value)


def test_a_saved_model_loads_with_the_same_tensors(base: Path, tmp_path: Path) -> None:
    model = load(base).model
    meta = meta_of("mid", model.config, 64, {"step": 3, "val_bpb": 1.5, "user_config": {"a": 1}})
    folder = checkpoint.save(
        tmp_path / "out",
        3,
        model,
        meta,
        run_id="ab12cd34",
        phase="mid",
        final=False,
        extra={"loss_end": 2.0},
    )
    manifest = read_whole(folder)
    assert (manifest.run_id, manifest.phase, manifest.step, manifest.final) == (
        "ab12cd34",
        "mid",
        3,
        False,
    )
    assert {f.path for f in manifest.files} == {"model_000003.pt", "meta_000003.json"}
    again = load(folder)
    assert again.model.config.sequence_len == 64
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[key])


def test_meta_has_nanochats_keys_and_null_for_what_was_not_measured(base: Path) -> None:
    config = load(base).model.config
    sft = meta_of("sft", config, 64, {"step": 3, "val_loss": 1.5, "user_config": {}})
    assert set(sft) == {"step", "val_loss", "mmlu_acc", "arc_easy_acc", "model_config"}
    assert sft["mmlu_acc"] is None
    assert sft["model_config"]["sequence_len"] == 128
    assert set(meta_of("mid", config, 64, {})) == {"step", "val_bpb", "user_config", "model_config"}
    json.dumps(sft)
