"""What HF_REPO should hold, piece by piece: is it there, how large is it, is it proven, and what is it needed for."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from nanolan.adopt import BY_HAND
from nanolan.config import Settings
from nanolan.datasets import IDENTITY_FILE
from nanolan.errors import AuthProblem, BadAnswer, PreflightFailed
from nanolan.hub import Hub, Tree
from nanolan.inside import Inside, check_together, look_at_identity, look_at_tokenizer
from nanolan.phases import PHASES
from nanolan.preflight import pin_checkpoint, read_manifest, reads_identity


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


def _tokenizer(hub: Hub, tree: Tree) -> Inside | BadAnswer | None:
    """What the tokenizer holds, or what is wrong with it; None when there is none."""
    files = tree.under("tokenizer")
    try:
        return look_at_tokenizer(hub, tree, files.values()) if files else None
    except BadAnswer as e:
        return e


def _piece(hub: Hub, tree: Tree, e: Expected, tokenizer: Inside | BadAnswer | None) -> Piece:
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


def _text(hub: Hub, tree: Tree, e: Expected, tokenizer: Inside | BadAnswer | None) -> str:
    """What is in the tokenizer or the identity file, found good; "" of anything else."""
    if e.path == IDENTITY_FILE:
        return look_at_identity(hub, tree).text
    if e.path != "tokenizer" or tokenizer is None:
        return ""
    if isinstance(tokenizer, BadAnswer):
        raise tokenizer
    return tokenizer.text


def _checkpoint(hub: Hub, tree: Tree, e: Expected, tokenizer: Inside | BadAnswer | None) -> Piece:
    pinned, inside = pin_checkpoint(hub, tree, e.path)
    if isinstance(tokenizer, Inside):
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
