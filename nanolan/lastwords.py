"""What a machine leaves on the Hub before it is deleted: log, metrics, receipt and whatever else tells of the run, in one commit.

Best effort: what cannot be made is left out and said, and the machine goes all the same.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from nanolan.hub import within
from nanolan.machine import Machine, say
from nanolan.postmortem import PROBES_S, headlines, to_bytes, write_up
from nanolan.report import SUCCEEDED, Receipt, to_json
from nanolan.secret import Mask

LAST_WORDS_S = 600.0         # for the log, with a Hub that has taken everything else
LOG_CHARS = 500_000          # of the log's end that the black box looks at

Leave = Callable[[Machine, Receipt], "bytes | None"]     # the file's content; None: there is nothing to tell


def metrics(m: Machine, receipt: Receipt) -> bytes | None:
    """Every row that the trainer wrote."""
    path = m.work / "metrics.jsonl"
    return path.read_bytes() if path.is_file() else None


def black_box(m: Machine, receipt: Receipt) -> bytes | None:
    """Why it ended short, with what the machine shows of itself; its headlines go into the log too."""
    if receipt.verdict == SUCCEEDED:
        return None
    mask, most_s = Mask(m.secrets.values()), min(PROBES_S, m.meter.margin.leave_s / 3)
    probes = {} if m.unsaved else m.tools.probes      # what is left of the money is for deleting
    box = write_up(m.plan, receipt, m.work, m.herald.log_tail(LOG_CHARS), mask, probes, most_s)
    for line in headlines(box):
        say(mask.hide(f"black box: {line}"))
    return to_bytes(box, mask)


# In the run folder, beside the log. A new row is made last, from what the rows before it are made of.
LEAVES: dict[str, Leave] = {
    "receipt.json": lambda m, receipt: to_json(receipt),
    "metrics.jsonl": metrics,
    "postmortem.json": black_box,
}


def last_words(m: Machine, receipt: Receipt) -> None:
    """The verdict stands on the Hub after the machine is gone."""
    # a Hub that was waited for in vain gets no more than what is left for deleting allows
    most_s = m.meter.margin.leave_s / 3 if m.unsaved else LAST_WORDS_S
    m.herald.close(most_s)
    m.control.close()
    m.meter.stop()
    try:
        hub = m.tools.hub(m.plan.hf_endpoint, m.token, patience_s=most_s,
                          clock=lambda: math.inf if m.meter.hard() else m.tools.clock())
        files = left_behind(m, receipt)
        within(most_s, lambda: hub.commit(m.plan.runs_repo, files, f"run {m.plan.run_id}: {receipt.verdict}"))
    except Exception as e:   # whatever it is, the machine must go
        say(f"the log could not be uploaded: {type(e).__name__} {e}")


def left_behind(m: Machine, receipt: Receipt, leaves: Mapping[str, Leave] = LEAVES) -> dict[str, bytes | Path]:
    """Path in RUNS_REPO -> content."""
    files: dict[str, bytes | Path] = {}
    for name, leave in leaves.items():
        try:
            if (content := leave(m, receipt)) is not None:
                files[f"{m.plan.folder}/{name}"] = content
        except Exception as e:   # the others are left all the same
            say(f"{name} could not be made: {type(e).__name__} {e}")
    return {receipt.log: m.herald.log(), **files}     # the log last: it holds what was said of the others
