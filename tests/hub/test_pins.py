"""What a folder that is not there is told to be got by: by an upload of this model, or by another folder of the repo."""

from __future__ import annotations

from typing import Any

import pytest

from nanolan.errors import PreflightFailed
from nanolan.hub.client import Tree
from nanolan.hub.pins import pin_checkpoint

HELD = {"d12/model_000100.pt": None, "d12/meta_000100.json": None, "README.md": None}


@pytest.mark.parametrize(
    "folder, named, files, advice",
    [
        ("base_checkpoints/d20", False, {}, "Upload it: just upload base"),
        ("base_checkpoints/d32", False, {}, "Upload it: just upload base model-tag=d32"),
        ("mid_checkpoints/d32", False, {}, "Upload it: just upload mid model-tag=d32"),
        ("nope", True, HELD, "Models are in d12: init=me/x:d12"),
        ("base_checkpoints/d32", True, HELD, "Models are in d12: init=me/x:d12"),
        ("nope", True, {}, "No folder of it holds a model_SSSSSS.pt: give another repo, init="),
    ],
)
def test_the_advice_for_a_missing_folder_can_work(
    folder: str, named: bool, files: dict[str, Any], advice: str
) -> None:
    tree = Tree("me/x", "model", "c0ffee", True, files)
    hub: Any = None  # not asked
    with pytest.raises(PreflightFailed) as e:
        pin_checkpoint(hub, tree, folder, named=named)
    assert str(e.value).startswith(f"me/x has no {folder}/. {advice}")
    assert str(e.value).endswith(advice) or advice.endswith("init=")
