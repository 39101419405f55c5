"""Checklist lines for the code of a launch: what is sent, which untracked files are included, what is left out, what is refused."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from nanolan.checklist import Check
from nanolan.code.bundle import bundle_and_snapshot
from nanolan.code.snapshot import Snapshot
from nanolan.errors import PreflightFailed
from nanolan.plan import Code
from nanolan.redact import printable
from nanolan.settings.settings import ROOT

MOST_NAMES = 60


def code_here(run_id: str, root: Path = ROOT) -> tuple[Code, bytes, tuple[Check, ...]]:
    """The bundle of this checkout, in memory, and its checklist lines."""
    with tempfile.TemporaryDirectory() as temp:
        path = Path(temp) / "code.bundle"
        try:
            code, snapshot = bundle_and_snapshot(root, path, run_id)
        except PreflightFailed as e:
            return Code("", "", 0, False), b"", (Check("code", False, str(e)),)
        changed = ", with uncommitted changes" if code.dirty else ""
        text = f"commit {code.commit[:8]}{changed}, a bundle of {code.size // 1000:,} kB"
        return code, path.read_bytes(), (Check("code", True, text), *of_snapshot(snapshot))


def code_in_one_line(run_id: str) -> tuple[Code, bytes, Check]:
    """`code_here` with a single checklist line."""
    code, data, checks = code_here(run_id)
    return code, data, Check("code", checks[0].ok, "; ".join(c.text for c in checks))


def of_snapshot(snapshot: Snapshot) -> tuple[Check, ...]:
    """Which untracked files are sent, and what is left out."""
    checks = []
    if snapshot.new:
        checks.append(
            Check(
                "code, untracked",
                None,
                f"sent too, although git does not track them: {named(snapshot.new)}",
            )
        )
    if snapshot.left:
        checks.append(Check("code, left out", None, by_reason(snapshot.left)))
    return tuple(checks)


def by_reason(left: Mapping[str, str]) -> str:
    """What is not sent, grouped by reason."""
    reasons = defaultdict(list)
    for path, why in left.items():
        reasons[why].append(path)
    return "; ".join(f"{why}: {named(paths)}" for why, paths in reasons.items())


def named(paths: Sequence[str]) -> str:
    """A list of paths, quoted if they have unusual characters; of a long list only the first."""
    shown = [
        printable(p) if p.isprintable() and " " not in p else repr(p)
        for p in sorted(paths)[:MOST_NAMES]
    ]
    more = f" and {len(paths) - MOST_NAMES:,} more" if len(paths) > MOST_NAMES else ""
    return f"{', '.join(shown)}{more}"
