"""What a machine leaves on the Hub before it is deleted: log, metrics, receipt and whatever else tells of the run, in one commit.

Best effort: what cannot be made is left out and said, and the machine goes all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from nanolan.box.context import BoxRun, say
from nanolan.box.machine_check import environment_here
from nanolan.box.upload.postmortem import PROBES_S, headlines, to_bytes, write_up
from nanolan.box.watch.heartbeat import metrics_of
from nanolan.checkpoint.evaluation import beside, gather
from nanolan.checkpoint.manifest import MANIFEST
from nanolan.net.deadline import within
from nanolan.notify import CLOSE_S, FAILURE, SUCCESS, ended
from nanolan.redact import Mask
from nanolan.run.record import SUCCEEDED, Receipt, leak_warning, to_json

README = "README.md"
LAST_WORDS_S = 600.0  # for the log, with a Hub that has taken everything else
CARD_S = 30.0  # for the model card
REPORT_S = 30.0  # for what a report takes: a GPU that hangs must not keep the machine
LOG_CHARS = 500_000  # of the log's end that the black box looks at

Leave = Callable[
    [BoxRun, Receipt], "bytes | None"
]  # the file's content; None: there is nothing to tell


def metrics(m: BoxRun, receipt: Receipt) -> bytes | None:
    """Every row that the trainer wrote."""
    return metrics_of(m.work)


def black_box(m: BoxRun, receipt: Receipt) -> bytes | None:
    """Why it ended short, with what the machine shows of itself; its headlines go into the log too."""
    if receipt.verdict == SUCCEEDED:
        return None
    mask, most_s = Mask(m.secrets.values()), min(PROBES_S, spare_s(m))
    probes = m.tools.probes if most_s else {}
    box = write_up(m.plan, receipt, m.work, m.herald.log_tail(LOG_CHARS), mask, probes, most_s)
    for line in headlines(box):
        say(mask.hide(f"black box: {line}"))
    return to_bytes(box, mask)


def samples(m: BoxRun, receipt: Receipt) -> bytes | None:
    """What the model answered after each phase."""
    found = gather(beside(m.evaluation(phase)) for phase in m.plan.phases)
    return masked(m, msgspec.json.format(msgspec.json.encode(found)) + b"\n") if found else None


def environment(m: BoxRun, receipt: Receipt) -> bytes | None:
    """What this machine is."""
    return to_json(within(most_s, environment_here)) if (most_s := spare_s(m)) else None


def report(m: BoxRun, receipt: Receipt) -> bytes | None:
    """All of it as a page to look at."""
    tried = m.state / "report-tried"
    if tried.exists() or not (most_s := spare_s(m)):
        return None
    tried.touch()  # one that takes this program down with it is not made again
    files = {
        "plan.json": m.plan.to_json(),
        "receipt.json": to_json(receipt),
        "metrics.jsonl": metrics(m, receipt) or b"",
        "samples.json": samples(m, receipt) or b"[]",
        "environment.json": environment(m, receipt) or b"",
    }
    texts = {name: content.decode(errors="replace") for name, content in files.items()}
    return masked(m, m.tools.render("page", texts, most_s).encode())


def spare_s(m: BoxRun) -> float:
    """How long what is good to have may take: near the limit no more than the half of the margin that is for surprises, and
    nothing once what is left is for deleting."""
    if m.meter.hard():
        return 0.0
    return min(REPORT_S, m.meter.margin.total_s) if m.meter.soft() else REPORT_S


def public_leak_warning(m: BoxRun) -> str:
    """What is to be said when the mask hit something in a log that anybody can read; else ""."""
    return leak_warning(m.plan) if m.plan.public and m.herald.masked() else ""


def masked(m: BoxRun, text: bytes) -> bytes:
    """A text without any of our secrets: names and answers are anybody's words."""
    return Mask(m.secrets.values()).hide(text.decode()).encode()


# In the run folder, beside the log. A new row is made last, from what the rows before it are made of.
FINAL_FILES: dict[str, Leave] = {
    "receipt.json": lambda m, receipt: to_json(receipt),
    "metrics.jsonl": metrics,
    "postmortem.json": black_box,
    "samples.json": samples,
    "environment.json": environment,
    "report.html": report,
}


def publish_final_files(m: BoxRun, receipt: Receipt) -> None:
    """The verdict stands on the Hub after the machine is gone."""
    # a Hub that was waited for in vain gets no more than what is left for deleting allows
    most_s = m.meter.margin.leave_s / 3 if m.unsaved else LAST_WORDS_S
    m.herald.close(most_s)
    m.control.close()
    m.meter.stop()
    stays = (
        ""
        if m.plan.self_delete
        else (
            f". ITS MACHINE BILLS until {m.meter.deadline} unless just guard runs; delete it now: "
            f"just stop {m.plan.run_id}"
        )
    )
    m.notify.tell(
        receipt.verdict,
        ended(receipt) + stays,
        SUCCESS if receipt.verdict == SUCCEEDED else FAILURE,
    )
    try:
        hub = m.tools.hub(
            m.plan.hf_endpoint,
            m.token,
            patience_s=most_s,
            clock=lambda: math.inf if m.meter.hard() else m.tools.clock(),
        )
        files = final_files(m, receipt)
        within(
            most_s,
            lambda: hub.commit(m.plan.runs_repo, files, f"run {m.plan.run_id}: {receipt.verdict}"),
        )
        update_model_card(m, receipt)
    except Exception as e:  # whatever it is, the machine must go
        say(f"the log could not be uploaded: {type(e).__name__} {e}")
    m.notify.close(min(most_s, CLOSE_S))


def update_model_card(m: BoxRun, receipt: Receipt) -> None:
    """The model card of HF_REPO with what is proven now. Good to have, no more; a README that cannot be read stays as it is."""
    if not any(r.state == "proven" for r in receipt.phases.values()) or m.meter.soft():
        return
    hub, repo = (
        m.tools.hub(m.plan.hf_endpoint, m.token, patience_s=CARD_S / 2, clock=m.tools.clock),
        m.plan.hf_repo,
    )

    def write() -> None:
        tree = hub.tree(repo)
        old = (
            hub.read(repo, README, revision=tree.revision).decode()
            if README in tree.files
            else None
        )
        folders = {path.rpartition("/")[0] for path in tree.files if path.endswith(f"/{MANIFEST}")}
        files = {
            "plan.json": m.plan.to_json().decode(),
            "receipt.json": to_json(receipt).decode(),
            "folders": "\n".join(sorted(folders)),
        }
        if old is not None:
            files[README] = old
        card = masked(m, m.tools.render("card", files, CARD_S).encode())
        hub.commit(repo, {README: card}, f"model card: run {m.plan.run_id}")

    try:
        within(CARD_S, write)
    except Exception as e:  # whatever it is, the run is done
        say(f"the model card stays as it was: {type(e).__name__} {e}")


def final_files(
    m: BoxRun, receipt: Receipt, leaves: Mapping[str, Leave] = FINAL_FILES
) -> dict[str, bytes | Path]:
    """Path in RUNS_REPO -> content."""
    files: dict[str, bytes | Path] = {}
    for name, leave in leaves.items():
        try:
            if (content := leave(m, receipt)) is not None:
                files[f"{m.plan.folder}/{name}"] = content
        except Exception as e:  # the others are left all the same
            say(f"{name} could not be made: {type(e).__name__} {e}")
    if warning := public_leak_warning(m):
        say(f"WARNING: {warning}")
    return {
        receipt.log: m.herald.log(),
        **files,
    }  # the log last: it holds what was said of the others
