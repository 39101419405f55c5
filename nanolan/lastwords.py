"""What a machine leaves on the Hub before it is deleted: log, metrics, receipt and whatever else tells of the run, in one commit.

Best effort: what cannot be made is left out and said, and the machine goes all the same.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from nanolan.hub import within
from nanolan.machine import Machine, say
from nanolan.notify import CLOSE_S, FAILURE, SUCCESS, ended
from nanolan.report import SUCCEEDED, Receipt, to_json

LAST_WORDS_S = 600.0         # for the log, with a Hub that has taken everything else

Leave = Callable[[Machine, Receipt], "bytes | None"]     # the file's content; None: there is nothing to tell


def metrics(m: Machine, receipt: Receipt) -> bytes | None:
    """Every row that the trainer wrote."""
    path = m.work / "metrics.jsonl"
    return path.read_bytes() if path.is_file() else None


# In the run folder, beside the log. A new row is made last, from what the rows before it are made of.
LEAVES: dict[str, Leave] = {
    "receipt.json": lambda m, receipt: to_json(receipt),
    "metrics.jsonl": metrics,
}


def last_words(m: Machine, receipt: Receipt) -> None:
    """The verdict stands on the Hub after the machine is gone."""
    # a Hub that was waited for in vain gets no more than what is left for deleting allows
    most_s = m.meter.margin.leave_s / 3 if m.unsaved else LAST_WORDS_S
    m.herald.close(most_s)
    m.control.close()
    m.meter.stop()
    m.notify.tell(receipt.verdict, ended(receipt), SUCCESS if receipt.verdict == SUCCEEDED else FAILURE)
    try:
        hub = m.tools.hub(m.plan.hf_endpoint, m.token, patience_s=most_s,
                          clock=lambda: math.inf if m.meter.hard() else m.tools.clock())
        files = left_behind(m, receipt)
        within(most_s, lambda: hub.commit(m.plan.runs_repo, files, f"run {m.plan.run_id}: {receipt.verdict}"))
    except Exception as e:   # whatever it is, the machine must go
        say(f"the log could not be uploaded: {type(e).__name__} {e}")
    m.notify.close(min(most_s, CLOSE_S))


def left_behind(m: Machine, receipt: Receipt, leaves: Mapping[str, Leave] = LEAVES) -> dict[str, bytes | Path]:
    """Path in RUNS_REPO -> content."""
    files: dict[str, bytes | Path] = {receipt.log: m.herald.log()}
    for name, leave in leaves.items():
        try:
            if (content := leave(m, receipt)) is not None:
                files[f"{m.plan.folder}/{name}"] = content
        except Exception as e:   # the others are left all the same
            say(f"{name} could not be made: {type(e).__name__} {e}")
    return files
