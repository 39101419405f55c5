"""What HF_REPO should hold: for each piece whether it is there, its size, whether it is proven, and what needs it."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, replace

from nanolan.checkpoint.manifest import MANIFEST, FileEntry, Manifest, hash_bytes
from nanolan.errors import AuthProblem, BadAnswer, PreflightFailed
from nanolan.hub.client import Hub, Tree
from nanolan.hub.input_check import (
    TOKENIZER,
    InputFacts,
    check_together,
    inspect_checkpoint,
    inspect_identity,
    inspect_tokenizer,
    model_in,
)
from nanolan.hub.pins import pin_checkpoint, read_manifest, reads_identity
from nanolan.hub.proof import Proof, prove
from nanolan.phases import FOLDERS, IDENTITY_FILE, kind_of
from nanolan.plan import Fork, Pinned, PinnedFile
from nanolan.settings.settings import Settings
from nanolan.times import iso, now_utc


@dataclass(frozen=True)
class Expected:
    """A piece that HF_REPO should hold: its path, what needs it, and which command creates it."""

    path: str
    use: str
    how: str


def size_text(size: int) -> str:
    """A number of bytes as text."""
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
        "the last phase",
        "just launch phase=rl, or: just upload rl",
    ),
    Expected("tokenizer", "every phase", "just upload tokenizer"),
    Expected(
        IDENTITY_FILE,
        "mid trains on it",
        "just identity name=... creator=..., then: just upload data",
    ),
    Expected("logs", "one log per run", ""),
    Expected("runs", "one folder per run", ""),
)


@dataclass(frozen=True)
class Piece:
    """What was found at an expected path."""

    path: str
    state: str  # missing, none yet, there, unproven, proven, NOT WHOLE
    size: int  # bytes
    text: str  # the step and the run, what is wrong, or which command creates it
    use: str
    inside: str = ""  # a description of its checked content

    def lines(self) -> list[str]:
        """The piece as one line, followed by its text, wrapped."""
        first = f"{self.state:<9} {self.path:<28} {size_text(self.size) if self.size else '':>11}  {self.use}"
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


def look(hub: Hub, tree: Tree, tag: str, fork: Fork | None = None) -> list[Piece]:
    """The state of every expected piece in `tree`; a fork reads not every form of conversations."""
    tokenizer = _tokenizer(hub, tree)
    return [
        _piece(hub, tree, Expected(e.path.format(tag=tag), e.use, e.how), tokenizer, fork)
        for e in expected_of(fork)
    ]


def expected_of(fork: Fork | None) -> tuple[Expected, ...]:
    """The pieces of a repo; with a fork what its phases read and write, in place of nanolan's."""
    if fork is None:
        return EXPECTED
    phases = list(fork.phases.values())
    readers = {p.input_dir: f"{p.name} starts from it" for p in reversed(phases)}
    makers = {p.output_dir: p.name for p in phases}
    folders = dict.fromkeys(f for p in phases for f in (p.input_dir, p.output_dir))
    others = [e for e in EXPECTED if "{tag}" not in e.path]
    return (*(_of_fork(f, readers.get(f, ""), makers.get(f, "")) for f in folders), *others)


def _of_fork(folder: str, use: str, maker: str) -> Expected:
    by_hand = f"just upload {FOLDERS.get(folder, folder)}"
    how = f"just launch phase={maker}, or: {by_hand}" if maker else by_hand
    return Expected(f"{folder}/{{tag}}", use or "the last phase", how)


def _tokenizer(hub: Hub, tree: Tree) -> InputFacts | BadAnswer | None:
    """The content of the tokenizer, or what is wrong with it; None if there is no tokenizer."""
    files = tree.under("tokenizer")
    try:
        return inspect_tokenizer(hub, tree, files.values()) if files else None
    except BadAnswer as e:
        return e


def _piece(
    hub: Hub,
    tree: Tree,
    e: Expected,
    tokenizer: InputFacts | BadAnswer | None,
    fork: Fork | None,
) -> Piece:
    files = {e.path: tree.files[e.path]} if e.path in tree.files else tree.under(e.path)
    size = sum(f.size for f in files.values())
    if not files:
        return Piece(e.path, "missing" if e.how else "none yet", 0, e.how, e.use)
    try:
        if "_checkpoints/" in e.path:
            return _checkpoint(hub, tree, e, tokenizer, fork)
        return Piece(e.path, "there", size, "", e.use, _text(hub, tree, e, tokenizer, fork))
    except AuthProblem:
        raise
    except (BadAnswer, PreflightFailed) as error:
        return Piece(e.path, "NOT WHOLE", size, str(error), e.use)


def _text(
    hub: Hub,
    tree: Tree,
    e: Expected,
    tokenizer: InputFacts | BadAnswer | None,
    fork: Fork | None,
) -> str:
    """A description of the tokenizer or the identity file, after a check; "" for other pieces."""
    if e.path == IDENTITY_FILE:
        return inspect_identity(hub, tree, fork).text
    if e.path != "tokenizer" or tokenizer is None:
        return ""
    if isinstance(tokenizer, BadAnswer):
        raise tokenizer
    return tokenizer.text


def _checkpoint(
    hub: Hub,
    tree: Tree,
    e: Expected,
    tokenizer: InputFacts | BadAnswer | None,
    fork: Fork | None,
) -> Piece:
    pinned, inside = pin_checkpoint(hub, tree, e.path, own=fork is None)
    if isinstance(tokenizer, InputFacts):
        check_together(inside, tokenizer, e.path)
    if not pinned.proven:
        adopt = f"no manifest; to write one for its files: just verify --adopt {e.path}"
        return Piece(e.path, "unproven", pinned.size, adopt, e.use, inside.text)
    manifest = read_manifest(hub, tree, e.path)
    origin = "uploaded by hand" if manifest.run_id == BY_HAND else f"run {manifest.run_id}"
    text = f"step {manifest.step}, {origin}"
    return Piece(e.path, "proven", manifest.size, text, e.use, inside.text)


def paths_needed(settings: Settings) -> set[str]:
    """The paths without which a run with these settings cannot start."""
    with_identity = "mid" in settings.phases and not settings.no_identity
    identity = {IDENTITY_FILE} if with_identity else set()
    return {settings.input_folder, "tokenizer", *identity}


def paths_read(settings: Settings) -> set[str]:
    """The paths that a run with these settings reads if they exist: an error in them would end the run."""
    return paths_needed(settings) | ({IDENTITY_FILE} if reads_identity(settings) else set())


BY_HAND = "00000000"  # the run id of checkpoints that were uploaded by hand


def verify(hub: Hub, repo: str, folder: str, *, own: bool = True) -> Proof:
    """Prove that `folder` holds what its manifest lists; BadAnswer if the checkpoint is not usable for training.

    `own`: by nanolan's trainer, so its architecture is checked, too."""
    tree = hub.tree(repo)
    proof = proven(hub, tree, folder)
    model, meta = model_in(_pin(tree, folder, proof.manifest))
    _check_content(hub, tree, folder, inspect_checkpoint(hub, tree, model, meta, own=own))
    return proof


def _pin(tree: Tree, folder: str, manifest: Manifest) -> Pinned:
    return tree.pin(f"{folder}/{f.path}" for f in manifest.files)


def _check_content(hub: Hub, tree: Tree, folder: str, checkpoint: InputFacts) -> None:
    """BadAnswer unless the repo's tokenizer, if it has one, fits the checkpoint."""
    if TOKENIZER in tree.files:
        tokenizer = inspect_tokenizer(hub, tree, tree.under("tokenizer").values())
        check_together(checkpoint, tokenizer, folder)


def proven(hub: Hub, tree: Tree, folder: str) -> Proof:
    """Prove that `folder` holds what its manifest lists; PreflightFailed says what to do if it has no manifest."""
    repo = tree.repo
    if f"{folder}/{MANIFEST}" not in tree.files:
        raise PreflightFailed(
            f"{repo}/{folder} has no manifest: unproven. To train from it as it is: "
            f"just verify --adopt {folder}"
        )
    manifest = read_manifest(hub, tree, folder)
    return prove(tree, folder, manifest)


def adopt(hub: Hub, repo: str, folder: str, *, own: bool = True) -> Proof:
    """Check the newest step in `folder` on the Hub, write its manifest, and prove it."""
    tree = hub.tree(repo)
    if f"{folder}/{MANIFEST}" in tree.files:
        tree = _without_manifest(tree, f"{folder}/{MANIFEST}")
    pinned, inside = pin_checkpoint(hub, tree, folder, own=own)
    _check_content(hub, tree, folder, inside)
    entries = tuple(_entry(hub, tree, f) for f in pinned.files)
    step = int(re.sub(r"\D", "", next(e.path for e in entries if e.path.startswith("model_"))))
    manifest = Manifest(
        BY_HAND,
        kind_of(folder),
        step,
        entries,
        extra={"adopted": iso(now_utc())},
    )
    hub.commit(
        repo, {f"{folder}/{MANIFEST}": manifest.to_json().encode()}, f"adopt {folder} step {step}"
    )
    return prove(hub.tree(repo), folder, manifest)


def _entry(hub: Hub, tree: Tree, file: PinnedFile) -> FileEntry:
    """The manifest entry of a file: the Hub gives the sha256 of LFS files; small files are downloaded and hashed."""
    name = file.path.rsplit("/", 1)[-1]
    if file.sha256:
        return FileEntry(name, file.size, file.sha256, "")
    return hash_bytes(name, hub.read(tree.repo, file.path, revision=tree.revision))


def _without_manifest(tree: Tree, path: str) -> Tree:
    return replace(tree, files={p: f for p, f in tree.files.items() if p != path})
