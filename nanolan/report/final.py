"""The page and the model card of a run that is over, from the files that its machine has made. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from nanolan.checkpoint.evaluation import read_samples
from nanolan.plan import read_plan
from nanolan.report.curves import read_metrics
from nanolan.report.data import report_data_of
from nanolan.report.model_card import new_card
from nanolan.report.page import render_page
from nanolan.run.environment import read_environment
from nanolan.run.record import read_receipt


def rendered(what: str, files: Mapping[str, str]) -> str:
    """`what`: page or card. `files`: plan.json and receipt.json; of the page also metrics.jsonl, samples.json and
    environment.json; of the card README.md (as it is now), `folders`, the repo's checkpoint folders, one a line, and `plain`, if
    the scores are to stay out of its front matter."""
    return {"page": _page, "card": _card}[what](files)


def _page(files: Mapping[str, str]) -> str:
    receipt = read_receipt(files["receipt.json"].encode())
    return render_page(
        report_data_of(
            read_plan(files["plan.json"]),
            receipt,
            receipt.ended,
            read_metrics(files.get("metrics.jsonl", "").encode()),
            read_samples(files.get("samples.json", "[]").encode()),
            read_environment(files.get("environment.json", "").encode()),
        )
    )


def _card(files: Mapping[str, str]) -> str:
    return new_card(
        files.get("README.md"),
        read_plan(files["plan.json"]),
        read_receipt(files["receipt.json"].encode()),
        set(files["folders"].splitlines()),
        index="plain" not in files,
    )
