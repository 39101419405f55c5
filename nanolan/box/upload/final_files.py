"""The last commit to the run folder before the instance is deleted: log, metrics, receipt, report and other files of FINAL_FILES.

Best effort: a file that cannot be made is left out with a line in the log, and the instance is deleted all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from nanolan.box.context import BoxRun, optional_hub, say
from nanolan.box.machine_check import environment_here
from nanolan.box.upload.postmortem import PROBES_S, headlines, to_bytes, write_up
from nanolan.box.watch.metrics import METRICS, earlier_known, metrics_of
from nanolan.checkpoint.evaluation import beside, gather
from nanolan.checkpoint.manifest import MANIFEST
from nanolan.errors import ApiProblem
from nanolan.hub.trouble import BAD_README
from nanolan.net.deadline import with_timeout
from nanolan.notify import CLOSE_S, FAILURE, SUCCESS, ended
from nanolan.redact import Mask
from nanolan.run.record import SUCCEEDED, Receipt, leak_warning, to_json

README = "README.md"
COMMIT_S = 600.0  # for the last commit, where the Hub took everything else
CARD_S = 30.0  # for the model card
EARLIER_S = 5.0  # for the metrics of earlier instances
REPORT_S = 30.0  # for the report and for nvidia-smi, which may hang
LOG_CHARS = 500_000  # of the log's end that the postmortem reads

# The content of a file; None: there is nothing to write
Make = Callable[[BoxRun, Receipt], "bytes | None"]


def metrics(box: BoxRun, receipt: Receipt) -> bytes | None:
    """Every row of the run, this instance's and earlier ones'; None where the earlier ones are not known."""
    known = earlier_known(box.plan, optional_hub(box, EARLIER_S), box.work)
    return metrics_of(box.work) if known else None


def postmortem(box: BoxRun, receipt: Receipt) -> bytes | None:
    """Why the run failed or stopped, with the machine's state; its headlines go into the log too."""
    if receipt.verdict == SUCCEEDED:
        return None
    mask, most_s = Mask(box.secrets.values()), min(PROBES_S, spare_s(box))
    probes = box.deps.probes if most_s else {}
    found = write_up(
        box.plan, receipt, box.work, box.heartbeat.log_tail(LOG_CHARS), mask, probes, most_s
    )
    for line in headlines(found):
        say(mask.hide(f"postmortem: {line}"))
    return to_bytes(found, mask)


def samples(box: BoxRun, receipt: Receipt) -> bytes | None:
    """What the model answered after each phase."""
    found = gather(beside(box.evaluation(phase)) for phase in box.plan.phases)
    return masked(box, msgspec.json.format(msgspec.json.encode(found)) + b"\n") if found else None


def environment(box: BoxRun, receipt: Receipt) -> bytes | None:
    """Versions and hardware of this machine."""
    return to_json(with_timeout(most_s, environment_here)) if (most_s := spare_s(box)) else None


def report(box: BoxRun, receipt: Receipt) -> bytes | None:
    """The run as one HTML page."""
    tried = box.state / "report-tried"
    if tried.exists() or not (most_s := spare_s(box)):
        return None
    tried.touch()  # a report that ended this program is not tried again
    files = {
        "plan.json": box.plan.to_json(),
        "receipt.json": to_json(receipt),
        METRICS: metrics_of(box.work) or b"",
        "samples.json": samples(box, receipt) or b"[]",
        "environment.json": environment(box, receipt) or b"",
    }
    texts = {name: content.decode(errors="replace") for name, content in files.items()}
    return masked(box, box.deps.render("page", texts, most_s).encode())


def spare_s(box: BoxRun) -> float:
    """Seconds for optional files: near the limit no more than the margin, and 0 once the rest of the money is for deleting."""
    if box.meter.must_give_up():
        return 0.0
    return min(REPORT_S, box.meter.margin.total_s) if box.meter.should_stop() else REPORT_S


def public_leak_warning(box: BoxRun) -> str:
    """A warning when a secret was masked in a log that is public; else ""."""
    return leak_warning(box.plan) if box.plan.public and box.heartbeat.has_masked() else ""


def masked(box: BoxRun, text: bytes) -> bytes:
    """A text without the values of this run's secrets."""
    return Mask(box.secrets.values()).hide(text.decode()).encode()


# Files of the run folder beside the log, made in this order
FINAL_FILES: dict[str, Make] = {
    "receipt.json": lambda box, receipt: to_json(receipt),
    METRICS: metrics,
    "postmortem.json": postmortem,
    "samples.json": samples,
    "environment.json": environment,
    "report.html": report,
}


def publish_final_files(box: BoxRun, receipt: Receipt) -> None:
    """Send the verdict as a notification and commit the final files."""
    # a Hub that did not take a checkpoint gets no more time than deleting can spare
    most_s = box.meter.margin.leave_s / 3 if box.unsaved else COMMIT_S
    box.heartbeat.close(most_s)
    box.control.close()
    box.meter.stop()
    stays = (
        ""
        if box.plan.self_delete
        else (
            f". ITS MACHINE BILLS until {box.meter.deadline} unless just guard runs; delete it now: "
            f"just stop {box.plan.run_id}"
        )
    )
    box.notify.send(
        receipt.verdict,
        ended(receipt) + stays,
        SUCCESS if receipt.verdict == SUCCEEDED else FAILURE,
    )
    try:
        hub = optional_hub(box, most_s)
        files = final_files(box, receipt)
        with_timeout(
            most_s,
            lambda: hub.commit(
                box.plan.runs_repo, files, f"run {box.plan.run_id}: {receipt.verdict}"
            ),
        )
        update_model_card(box, receipt)
    except Exception as e:  # the instance must be deleted all the same
        say(f"the log could not be uploaded: {type(e).__name__} {e}")
    box.notify.close(min(most_s, CLOSE_S))


def update_model_card(box: BoxRun, receipt: Receipt) -> None:
    """Update the model card of HF_REPO, best effort; a README that cannot be read stays as it is."""
    if not any(r.state == "proven" for r in receipt.phases.values()) or box.meter.should_stop():
        return
    hub = optional_hub(box, CARD_S / 2)
    repo = box.plan.hf_repo

    def write() -> None:
        tree = hub.tree(repo)
        old = (
            hub.read(repo, README, revision=tree.revision).decode()
            if README in tree.files
            else None
        )
        folders = {path.rpartition("/")[0] for path in tree.files if path.endswith(f"/{MANIFEST}")}
        files = {
            "plan.json": box.plan.to_json().decode(),
            "receipt.json": to_json(receipt).decode(),
            "folders": "\n".join(sorted(folders)),
        }
        if old is not None:
            files[README] = old
        try:
            commit(files)
        except ApiProblem as e:
            if BAD_README not in str(e):
                raise
            say(f"the model card's scores stay out of its metadata: {e}")
            commit(files | {"plain": "yes"})

    def commit(files: dict[str, str]) -> None:
        card = masked(box, box.deps.render("card", files, CARD_S).encode())
        hub.commit(repo, {README: card}, f"model card: run {box.plan.run_id}")

    try:
        with_timeout(CARD_S, write)
    except Exception as e:  # the run is done all the same
        say(f"the model card stays as it was: {type(e).__name__} {e}")


def final_files(
    box: BoxRun, receipt: Receipt, files_to_make: Mapping[str, Make] = FINAL_FILES
) -> dict[str, bytes | Path]:
    """Path in RUNS_REPO -> content."""
    files: dict[str, bytes | Path] = {}
    for name, make in files_to_make.items():
        try:
            if (content := make(box, receipt)) is not None:
                files[f"{box.plan.folder}/{name}"] = content
        except Exception as e:  # the other files follow
            say(f"{name} could not be made: {type(e).__name__} {e}")
    if warning := public_leak_warning(box):
        say(f"WARNING: {warning}")
    return {
        receipt.log: box.heartbeat.log(),
        **files,
    }  # the log last: it has the lines about the other files
