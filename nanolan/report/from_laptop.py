"""The report data of a run as seen from the laptop: its status and the files in its run folder so far."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from nanolan.checkpoint.evaluation import read_samples
from nanolan.cost.spending import attempts
from nanolan.errors import NanolanError, NotFound
from nanolan.hub.client import Hub
from nanolan.report.curves import Metrics, read_metrics
from nanolan.report.data import ReportData
from nanolan.run.environment import read_environment
from nanolan.run.record import ENDED
from nanolan.status.text import resume_command
from nanolan.status.view import SHORT, RunView
from nanolan.status.why import lost
from nanolan.times import iso, now_utc

FILES = ("metrics.jsonl", "samples.json", "environment.json")


def report_data_from_laptop(view: RunView, hub: Hub, problems: tuple[str, ...] = ()) -> ReportData:
    """The report data so far; failed look-ups are listed in `problems`."""
    plan = view.entry.plan
    with ThreadPoolExecutor(len(FILES)) as pool:
        looks = [
            pool.submit(look, partial(hub.read, plan.runs_repo, f"{plan.folder}/{name}"))
            for name in FILES
        ]
    (metrics, samples, environment), found = (
        (look.result()[0] for look in looks),
        [look.result()[1] for look in looks],
    )
    ended = view.state in ENDED
    reason = (
        (view.receipt.message if view.receipt else "")
        or view.reason
        or ("" if ended else where(view))
    )
    never = len(attempts(view.entry)) == len(view.entry.earlier)  # rented
    return ReportData(
        plan,
        view.state,
        reason,
        iso(now_utc()),
        view.phases,
        view.receipt,
        0 if never else view.spent_cents,
        read_metrics(metrics) if metrics else Metrics(),
        read_samples(samples or b"[]"),
        read_environment(environment) if environment else None,
        view.entry.earlier,
        saved=f"{view.saved.phase} step {view.saved.step}" if view.saved else "",
        go_on=resume_command(view) if view.resumable else "",
        lost=lost(view, None) if view.state in SHORT and not never else "",
        problems=tuple(dict.fromkeys((*problems, *view.problems, *filter(None, found)))),
    )


def look(read: Callable[[], bytes]) -> tuple[bytes | None, str]:
    """(the file, ""), or (None, reason) when it cannot be read, or (None, "") when there is none."""
    try:
        return read(), ""
    except NotFound:
        return None, ""
    except NanolanError as e:
        return None, str(e)


def where(view: RunView) -> str:
    """The step of a running run."""
    p = view.progress
    if p is None or p.step is None:
        return ""
    return f"step {p.step} of {p.steps} (reported at {p.updated})"
