"""Only files on the Hub with the size and hash of their manifest are proven."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nanolan.checkpoint.manifest import FileEntry, Manifest
from nanolan.errors import BadAnswer
from nanolan.hub.client import Tree
from nanolan.hub.proof import Proof, prove
from nanolan.plan import PinnedFile

SHA256, GIT, OTHER = "a" * 64, "b" * 40, "c" * 64
FOLDER = "chatsft_checkpoints/d20"
MANIFEST = Manifest(
    "ab12cd34",
    "sft",
    90,
    (FileEntry("meta_000090.json", 2, OTHER, GIT), FileEntry("model_000090.pt", 7, SHA256, "")),
)
META = PinnedFile(f"{FOLDER}/meta_000090.json", 2, None, GIT)
MODEL = PinnedFile(
    f"{FOLDER}/model_000090.pt", 7, SHA256, "d" * 40
)  # in LFS: the git hash is that of its pointer
ITSELF = PinnedFile(f"{FOLDER}/manifest.json", 300, None, "e" * 40)
TREE = Tree("me/lanbot", "model", "f" * 40, True, {f.path: f for f in (META, MODEL, ITSELF)})


def changed(**files: PinnedFile | None) -> Tree:
    """TREE with META, MODEL or ITSELF in another form, or without it."""
    known = {"meta": META, "model": MODEL, "itself": ITSELF} | files
    return replace(TREE, files={f.path: f for f in known.values() if f})


def test_matching_sizes_and_hashes_are_a_proof_at_that_revision() -> None:
    assert prove(TREE, FOLDER, MANIFEST) == Proof("me/lanbot", FOLDER, "f" * 40, MANIFEST)


@pytest.mark.parametrize(
    "tree",
    [
        pytest.param(changed(model=None), id="model missing"),
        pytest.param(changed(meta=None), id="meta missing"),
        pytest.param(changed(itself=None), id="manifest missing"),
        pytest.param(changed(model=PinnedFile(MODEL.path, 8, SHA256, "")), id="another size"),
        pytest.param(changed(model=PinnedFile(MODEL.path, 7, OTHER, "")), id="another sha256"),
        pytest.param(changed(meta=PinnedFile(META.path, 2, None, "0" * 40)), id="another git hash"),
        pytest.param(changed(meta=PinnedFile(META.path, 2, None, "")), id="no hash at all"),
        pytest.param(
            changed(model=PinnedFile(MODEL.path, 7, None, "")), id="no hash on either side"
        ),
        pytest.param(
            replace(TREE, files={p.replace("d20", "d32"): f for p, f in TREE.files.items()}),
            id="in another folder",
        ),
        pytest.param(replace(TREE, files={}), id="an empty repo"),
    ],
)
def test_any_difference_is_not_a_proof(tree: Tree) -> None:
    with pytest.raises(BadAnswer, match=f"me/lanbot: {FOLDER}/"):
        prove(tree, FOLDER, MANIFEST)
