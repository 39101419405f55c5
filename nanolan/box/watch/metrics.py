"""The rows of metrics.jsonl: those of this instance's trainer, after those that earlier instances of the run have left on the Hub.

The file in the run folder is replaced by each upload, so nothing is uploaded before the earlier rows are known.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from nanolan.box.sandbox import trainer_folder
from nanolan.errors import BadAnswer, NanolanError, NotFound
from nanolan.files import last_lines, try_write_atomic
from nanolan.hub.client import Hub
from nanolan.plan import UNREADABLE, Plan

METRICS = "metrics.jsonl"
EARLIER = "earlier-metrics.jsonl"  # in the work folder, out of the trainer's reach
LAST_ROWS_BYTES = 20_000  # of metrics.jsonl, enough for the last step
METRICS_BYTES = 32 << 20  # of it, for the Hub; 20,000 steps take 6 MB


def earlier_known(plan: Plan, hub: Hub, work: Path) -> bool:
    """Whether what earlier attempts have measured is stored here; asks the Hub until it has said so once."""
    if plan.attempt == 1 or (work / EARLIER).exists():
        return True
    try:
        rows = hub.read(plan.runs_repo, f"{plan.folder}/{METRICS}")
    except NotFound:
        rows = b""
    except BadAnswer as e:  # too large
        print(f"the metrics of earlier instances are left out: {e}", flush=True)
        rows = b""
    except NanolanError:
        return False
    return try_write_atomic(work / EARLIER, rows)


def metrics_of(work: Path) -> bytes | None:
    """Every row of the run so far; of a flood the newest. None while this instance has none."""
    rows = _lines(trainer_folder(work) / METRICS)
    if not rows:
        return None
    earlier = _lines(work / EARLIER)
    if earlier and not earlier.endswith(b"\n"):
        earlier += b"\n"
    return (earlier + rows)[-METRICS_BYTES:]


def _lines(path: Path) -> bytes:
    try:
        return last_lines(path, METRICS_BYTES)
    except OSError:
        return b""


class Row(msgspec.Struct, frozen=True):
    """One training step in metrics.jsonl."""

    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    phase: str = ""
    tok_per_s: float | None = None
    left_s: float | None = None


# Made at import: msgspec may crash when two threads decode a type for the first time
ROW = msgspec.json.Decoder(Row)


def last_row(path: Path) -> Row:
    """The newest training step in metrics.jsonl; an empty row when there is none."""
    try:
        lines = last_lines(path, LAST_ROWS_BYTES).splitlines()
    except OSError:
        return Row()
    for line in reversed(lines):
        try:
            if (row := ROW.decode(line)).step is not None and row.loss is not None:
                return row
        except UNREADABLE:
            continue  # half written, or half read
    return Row()
