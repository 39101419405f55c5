"""What HF_REPO should hold, piece by piece: is it there, how large is it, is it proven, and what is it needed for."""
from __future__ import annotations

import textwrap
from dataclasses import dataclass

from nanolan.adopt import BY_HAND, verify
from nanolan.config import Settings
from nanolan.datasets import IDENTITY_FILE
from nanolan.errors import NanolanError
from nanolan.hub import Hub, Tree
from nanolan.manifest import MANIFEST
from nanolan.phases import PHASES
from nanolan.preflight import pin_checkpoint


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
    Expected("mid_checkpoints/{tag}", "sft starts from it", "just launch phase=mid, or: just upload mid"),
    Expected("chatsft_checkpoints/{tag}", "rl starts from it", "just launch phase=sft, or: just upload sft"),
    Expected("chatrl_checkpoints/{tag}", "the end of the chain", "just launch phase=rl, or: just upload rl"),
    Expected("tokenizer", "every phase", "just upload tokenizer"),
    Expected(IDENTITY_FILE, "mid learns who it is", "just identity name=... creator=..., then: just upload data"),
    Expected("logs", "each run leaves a log", ""),
    Expected("runs", "each run leaves a folder", ""),
)


@dataclass(frozen=True)
class Piece:
    """What was found at a path of the structure."""

    path: str
    state: str                   # missing, none yet, there, unproven, proven, NOT WHOLE
    size: int                    # bytes
    text: str                    # the step and the run, what is wrong, or how it comes to be
    use: str

    def lines(self) -> list[str]:
        """The piece, and below it what there is to say."""
        first = f"{self.state:<9} {self.path:<28} {amount(self.size) if self.size else '':>11}  {self.use}"
        return [first, *textwrap.wrap(self.text, 80, initial_indent=" " * 10, subsequent_indent=" " * 10, break_long_words=False,
                                      break_on_hyphens=False)]


def look(hub: Hub, tree: Tree, tag: str) -> list[Piece]:
    """Every piece of the structure, as it is in `tree`."""
    return [_piece(hub, tree, Expected(e.path.format(tag=tag), e.use, e.how)) for e in EXPECTED]


def _piece(hub: Hub, tree: Tree, e: Expected) -> Piece:
    files = {e.path: tree.files[e.path]} if e.path in tree.files else tree.under(e.path)
    size = sum(f.size for f in files.values())
    if not files:
        return Piece(e.path, "missing" if e.how else "none yet", 0, e.how, e.use)
    if "_checkpoints/" not in e.path:
        return Piece(e.path, "there", size, "", e.use)
    try:
        if f"{e.path}/{MANIFEST}" not in tree.files:
            pinned = pin_checkpoint(hub, tree, e.path)
            adopt = f"no manifest, so taken by size and hash; just verify --adopt {e.path}"
            return Piece(e.path, "unproven", pinned.size, adopt, e.use)
        m = verify(hub, tree.repo, e.path, tree).manifest
        whose = "uploaded by hand" if m.run_id == BY_HAND else f"run {m.run_id}"
        return Piece(e.path, "proven", m.size, f"step {m.step}, {whose}", e.use)
    except NanolanError as error:
        return Piece(e.path, "NOT WHOLE", size, str(error), e.use)


def needed(s: Settings) -> set[str]:
    """The paths without which a run of these settings cannot start."""
    identity = {IDENTITY_FILE} if "mid" in s.phases and not s.no_identity else set()
    return {f"{PHASES[s.phases[0]].input_dir}/{s.model_tag}", "tokenizer", *identity}
