"""What HF_REPO should hold, piece by piece: is it there, how large is it, is it proven, and what is it needed for."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from nanolan.checkpoint.manifest import MANIFEST, FileEntry, Manifest, hash_bytes
from nanolan.errors import AuthProblem, BadAnswer, PreflightFailed
from nanolan.hub.client import Hub, Tree
from nanolan.hub.input_check import (
    TOKENIZER,
    InputFacts,
    check_together,
    look_at_checkpoint,
    look_at_identity,
    look_at_tokenizer,
    model_in,
)
from nanolan.hub.pins import pin_checkpoint, read_manifest, reads_identity
from nanolan.hub.proof import Proof, prove
from nanolan.phases import FOLDERS, IDENTITY_FILE, PHASES
from nanolan.plan import Pinned, PinnedFile
from nanolan.settings.settings import Settings
from nanolan.times import iso, now_utc


@dataclass(frozen=True)
class Expected:
    """A piece of the structure: its path, what needs it, and how it comes to be."""

    path: str
    use: str
    how: str


def amount(size: int) -> str:
    """A number of bytes, to be read."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


EXPECTED = (
    Expected("base_checkpoints/{tag}", "mid starts from it", "just upload base"),
    Expected(
        "mid_checkpoints/{tag}", "sft starts from it", "just launch phase=mid, or: just upload mid"
    ),
    Expected(
        "chatsft_checkpoints/{tag}",
        "rl starts from it",
        "just launch phase=sft, or: just upload sft",
    ),
    Expected(
        "chatrl_checkpoints/{tag}",
        "the end of the chain",
        "just launch phase=rl, or: just upload rl",
    ),
    Expected("tokenizer", "every phase", "just upload tokenizer"),
    Expected(
        IDENTITY_FILE,
        "mid learns who it is",
        "just identity name=... creator=..., then: just upload data",
    ),
    Expected("logs", "each run leaves a log", ""),
    Expected("runs", "each run leaves a folder", ""),
)


@dataclass(frozen=True)
class Piece:
    """What was found at a path of the structure."""

    path: str
    state: str  # missing, none yet, there, unproven, proven, NOT WHOLE
    size: int  # bytes
    text: str  # the step and the run, what is wrong, or how it comes to be
    use: str
    inside: str = ""  # what is in it, found good

    def lines(self) -> list[str]:
        """The piece, and below it what there is to say."""
        first = f"{self.state:<9} {self.path:<28} {amount(self.size) if self.size else '':>11}  {self.use}"
        return [
            first,
            *textwrap.wrap(
                self.text,
                80,
                initial_indent=" " * 10,
                subsequent_indent=" " * 10,
                break_long_words=False,
                break_on_hyphens=False,
            ),
        ]


def look(hub: Hub, tree: Tree, tag: str) -> list[Piece]:
    """Every piece of the structure, as it is in `tree`."""
    tokenizer = _tokenizer(hub, tree)
    return [
        _piece(hub, tree, Expected(e.path.format(tag=tag), e.use, e.how), tokenizer)
        for e in EXPECTED
    ]


def _tokenizer(hub: Hub, tree: Tree) -> InputFacts | BadAnswer | None:
    """What the tokenizer holds, or what is wrong with it; None when there is none."""
    files = tree.under("tokenizer")
    try:
        return look_at_tokenizer(hub, tree, files.values()) if files else None
    except BadAnswer as e:
        return e


def _piece(hub: Hub, tree: Tree, e: Expected, tokenizer: InputFacts | BadAnswer | None) -> Piece:
    files = {e.path: tree.files[e.path]} if e.path in tree.files else tree.under(e.path)
    size = sum(f.size for f in files.values())
    if not files:
        return Piece(e.path, "missing" if e.how else "none yet", 0, e.how, e.use)
    try:
        if "_checkpoints/" in e.path:
            return _checkpoint(hub, tree, e, tokenizer)
        return Piece(e.path, "there", size, "", e.use, _text(hub, tree, e, tokenizer))
    except AuthProblem:
        raise
    except (BadAnswer, PreflightFailed) as error:
        return Piece(e.path, "NOT WHOLE", size, str(error), e.use)


def _text(hub: Hub, tree: Tree, e: Expected, tokenizer: InputFacts | BadAnswer | None) -> str:
    """What is in the tokenizer or the identity file, found good; "" of anything else."""
    if e.path == IDENTITY_FILE:
        return look_at_identity(hub, tree).text
    if e.path != "tokenizer" or tokenizer is None:
        return ""
    if isinstance(tokenizer, BadAnswer):
        raise tokenizer
    return tokenizer.text


def _checkpoint(
    hub: Hub, tree: Tree, e: Expected, tokenizer: InputFacts | BadAnswer | None
) -> Piece:
    pinned, inside = pin_checkpoint(hub, tree, e.path)
    if isinstance(tokenizer, InputFacts):
        check_together(inside, tokenizer, e.path)
    if not pinned.proven:
        adopt = f"no manifest, so taken by size and hash; just verify --adopt {e.path}"
        return Piece(e.path, "unproven", pinned.size, adopt, e.use, inside.text)
    m = read_manifest(hub, tree, e.path)
    whose = "uploaded by hand" if m.run_id == BY_HAND else f"run {m.run_id}"
    return Piece(e.path, "proven", m.size, f"step {m.step}, {whose}", e.use, inside.text)


def needed(s: Settings) -> set[str]:
    """The paths without which a run of these settings cannot start."""
    identity = {IDENTITY_FILE} if "mid" in s.phases and not s.no_identity else set()
    return {f"{PHASES[s.phases[0]].input_dir}/{s.model_tag}", "tokenizer", *identity}


def read_by(s: Settings) -> set[str]:
    """The paths that a run of these settings reads, if they are there: what is wrong with them would end it."""
    return needed(s) | ({IDENTITY_FILE} if reads_identity(s) else set())


BY_HAND = "00000000"  # the run id of what no run made


def verify(hub: Hub, repo: str, folder: str) -> Proof:
    """A Proof that `folder` holds what its manifest says; BadAnswer when that could not be trained from."""
    tree = hub.tree(repo)
    proof = proven(hub, tree, folder)
    _check_content(
        hub,
        tree,
        folder,
        look_at_checkpoint(hub, tree, *model_in(_pin(tree, folder, proof.manifest))),
    )
    return proof


def _pin(tree: Tree, folder: str, manifest: Manifest) -> Pinned:
    return tree.pin(f"{folder}/{f.path}" for f in manifest.files)


def _check_content(hub: Hub, tree: Tree, folder: str, checkpoint: InputFacts) -> None:
    """BadAnswer unless the repo's tokenizer, if it has one, fits the checkpoint."""
    if TOKENIZER in tree.files:
        tokenizer = look_at_tokenizer(hub, tree, tree.under("tokenizer").values())
        check_together(checkpoint, tokenizer, folder)


def proven(hub: Hub, tree: Tree, folder: str) -> Proof:
    """A Proof that `folder` holds what its manifest says; PreflightFailed says what to do when there is none."""
    repo = tree.repo
    if f"{folder}/{MANIFEST}" not in tree.files:
        raise PreflightFailed(
            f"{repo}/{folder} has no manifest: unproven. If it is what you mean to train from: "
            f"just verify --adopt {folder}"
        )
    manifest = read_manifest(hub, tree, folder)
    return prove(tree, folder, manifest)


def adopt(hub: Hub, repo: str, folder: str) -> Proof:
    """Write the manifest of the newest step in `folder`, as it is on the Hub now, after the size check; then prove it."""
    tree = hub.tree(repo)
    if f"{folder}/{MANIFEST}" in tree.files:
        tree = _without_manifest(tree, f"{folder}/{MANIFEST}")
    pinned, inside = pin_checkpoint(hub, tree, folder)
    _check_content(hub, tree, folder, inside)
    entries = tuple(_entry(hub, tree, f) for f in pinned.files)
    step = int(re.sub(r"\D", "", next(e.path for e in entries if e.path.startswith("model_"))))
    manifest = Manifest(
        BY_HAND,
        FOLDERS.get(folder.split("/")[0], "base"),
        step,
        entries,
        extra={"adopted": iso(now_utc())},
    )
    hub.commit(
        repo, {f"{folder}/{MANIFEST}": manifest.to_json().encode()}, f"adopt {folder} step {step}"
    )
    return prove(hub.tree(repo), folder, manifest)


def _entry(hub: Hub, tree: Tree, f: PinnedFile) -> FileEntry:
    """The Hub knows the sha256 of LFS files; small ones are read and hashed."""
    name = f.path.rsplit("/", 1)[-1]
    if f.sha256:
        return FileEntry(name, f.size, f.sha256, "")
    return hash_bytes(name, hub.read(tree.repo, f.path, revision=tree.revision))


def _without_manifest(tree: Tree, path: str) -> Tree:
    from dataclasses import replace

    return replace(tree, files={p: f for p, f in tree.files.items() if p != path})
