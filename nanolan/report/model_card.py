"""The model card: README.md of HF_REPO. What the user wrote stays as it is; ours stands between two markers. Pure.

    new_card(old, plan, receipt, folders)   the whole README, with this run's checkpoints in it

What earlier runs left is kept in a comment inside our part, and shown as long as its folder is still there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any

import msgspec
import yaml
from huggingface_hub import ModelCard

from nanolan.cost.spending import paid_cents
from nanolan.money import dollars
from nanolan.phases import PHASES
from nanolan.plan import UNREADABLE, Plan
from nanolan.report.scores import CHATCORE, TASKS, hub_index, is_our_index
from nanolan.run.record import PhaseReport, Receipt

README = "README.md"
BEGIN, END = "<!-- nanolan:begin -->", "<!-- nanolan:end -->"
OURS = re.compile(rf"{re.escape(BEGIN)}(?:(?!{re.escape(BEGIN)}).)*?{re.escape(END)}", re.S)
DATA = re.compile(r"<!-- nanolan:data (.*?) -->", re.S)
FRONT = re.compile(r"\A(\ufeff?---[ \t]*\r?\n)(.*?)(^---[ \t]*\r?(?:\n|\Z))", re.S | re.M)
INDEX = "model-index"
INDEX_LINES = re.compile(rf"^{INDEX}:[^\n]*\n(?:[ \t-][^\n]*(?:\n|\Z))*", re.M)
MOST_FRONT = 100_000
FACTS = {
    "library_name": "nanochat",
    "pipeline_tag": "text-generation",
    "tags": "[nanochat, nanolan]",
}
HEAD = "# {}\n\nA [nanochat](https://github.com/karpathy/nanochat) model.\n"


class Result(msgspec.Struct, frozen=True):
    """What one checkpoint folder holds, and how it came about."""

    folder: str
    phase: str
    step: int | None
    run_id: str
    ended: str
    measured: dict[str, float] = {}
    evaluate: str = ""  # quick or full; "": not known
    cents: int | None = None  # None: not known, or not for everyone who may read this repo


def new_card(
    old: str | None,
    plan: Plan,
    receipt: Receipt,
    folders: Collection[str],
    hide: Callable[[str], str] = str,
    index: bool = True,
) -> str:
    """The README with this run's results; `folders` are the checkpoint folders that the repo holds now; `hide` masks our part.

    `index`: with the scores in the front matter, where the Hub reads them."""
    results = newest(earlier(old or ""), plan, receipt, folders)
    text = old if old and old.strip() else HEAD.format(plan.hf_repo.rpartition("/")[2])
    ours, found = hide(block(plan, receipt, results)), OURS.search(text)
    text = (
        text[: found.start()] + ours + text[found.end() :]
        if found
        else text.rstrip("\r\n") + "\n\n" + ours + "\n"
    )
    judged = any(set(r.measured) & set(TASKS) for r in results)
    return with_front(text, judged, scores_of(plan, results) if index else [], hide)


def newest(
    before: Mapping[str, Result], plan: Plan, receipt: Receipt, folders: Collection[str]
) -> list[Result]:
    """One result for each folder that is there, this run's in place of older ones."""
    shown = (
        plan.runs_repo == plan.hf_repo
    )  # else the run folder is elsewhere, perhaps so that not all can read it
    costs = receipt.phase_cents if shown else {}
    mine = {
        r.folder: Result(
            r.folder,
            p,
            r.step,
            plan.run_id,
            receipt.ended,
            _scores(r),
            plan.evaluate,
            costs.get(p),
        )
        for p, r in receipt.phases.items()
        if r.state == "proven" and r.folder
    }
    there = {folder: r for folder, r in {**before, **mine}.items() if folder in folders}
    order = list(PHASES)
    return sorted(
        there.values(),
        key=lambda r: (r.folder.partition("/")[2], order.index(r.phase) if r.phase in order else 9),
    )


def _scores(r: PhaseReport) -> dict[str, float]:
    return {
        k: v
        for k, v in r.measured.items()
        if math.isfinite(v) and (k in TASKS or k == CHATCORE or k.startswith("val_"))
    }


def earlier(text: str) -> dict[str, Result]:
    """The results noted in our part of a README; {} where there is none or it cannot be read."""
    ours = OURS.search(text)
    data = DATA.search(ours[0]) if ours else None
    try:
        return (
            {r.folder: r for r in msgspec.json.decode(data[1], type=list[Result])} if data else {}
        )
    except UNREADABLE:
        return {}


# ------------------------------------------------------------------ our part
def block(plan: Plan, receipt: Receipt, results: list[Result]) -> str:
    """What stands between the markers, with them."""
    data = msgspec.json.encode(results).decode().replace("<", "\\u003c").replace(">", "\\u003e")
    parts = [
        BEGIN,
        f"<!-- nanolan:data {data} -->",
        "## Checkpoints",
        _checkpoints(results),
        _evaluation(results),
        _run(plan, receipt),
        _chat(plan),
        END,
    ]
    return "\n\n".join(p for p in parts if p)


def _checkpoints(results: list[Result]) -> str:
    rows = [
        [
            f"`{_plain(r.folder)}`",
            _plain(r.phase),
            "?" if r.step is None else str(r.step),
            ", ".join(f"{k} {v:.4f}" for k, v in r.measured.items() if k.startswith("val_")) or "-",
            f"`{_plain(r.run_id)}`",
            _plain(r.ended[:10]),
            "-" if r.cents is None else dollars(r.cents),
        ]
        for r in results
    ]
    return _table(
        ["folder", "phase", "step", "validation", "run", "date", "cost of training and evaluation"],
        rows,
    )


def _evaluation(results: list[Result]) -> str:
    judged = [r for r in results if set(r.measured) & {*TASKS, CHATCORE}]
    names = {**{k: name for k, (name, _) in TASKS.items()}, CHATCORE: "ChatCORE"}
    rows = [
        [name, *(_score(key, r.measured.get(key)) for r in judged)]
        for key, name in names.items()
        if any(key in r.measured for r in judged)
    ]
    return (
        "## Evaluation\n\n" + _table(["task", *(f"`{_plain(r.folder)}`" for r in judged)], rows)
        if rows
        else ""
    )


def _score(key: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if key == CHATCORE else f"{value:.1%}"


def _run(plan: Plan, receipt: Receipt) -> str:
    """The newest run's bill and where the rest lies; nothing of it where the run folder is in another repo."""
    if plan.runs_repo != plan.hf_repo:
        return ""
    o, took = (
        plan.offer,
        "" if receipt.seconds is None else f" in {timedelta(seconds=max(0, receipt.seconds))}",
    )
    alone = ", its last machine alone" if plan.attempt > 1 else ""
    return (
        f"The newest run, `{plan.run_id}`, cost {dollars(paid_cents(receipt))}{took} on {o.num_gpus}x {_plain(o.gpu)}{alone}. "
        f"Its plan, code, metrics, receipt and a report to look at (`report.html`) are in `{plan.folder}/`."
    )


def _chat(plan: Plan) -> str:
    return (
        "## Use it\n\nWith [nanochat](https://github.com/karpathy/nanochat)'s own tools, or with nanolan:\n\n```\n"
        f'just pull hf-repo={_plain(plan.hf_repo)}\njust chat -p "Who are you?"\n```'
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _plain(text: str) -> str:
    """A name that can end neither its cell nor a comment."""
    return re.sub(r"[^\w./:+@-]", "?", text)


# ------------------------------------------------------------------ the front matter
def scores_of(plan: Plan, results: list[Result]) -> list[Any]:
    """The model-index of the checkpoints that were evaluated."""
    place = f"{plan.hf_endpoint.rstrip('/')}/{plan.hf_repo}/tree/main"
    return [
        entry
        for r in results
        for entry in hub_index(
            _plain(r.folder), f"{place}/{_plain(r.folder)}", r.measured, r.evaluate == "quick"
        )
    ]


def with_front(text: str, judged: bool, scores: list[Any], hide: Callable[[str], str] = str) -> str:
    """The README with YAML front matter: what is there stays, the facts that are missing are added at its end, and our scores
    take the place of those before."""
    facts = FACTS | ({"metrics": "[accuracy]"} if judged else {})
    index = hide(yaml.safe_dump({INDEX: scores}, sort_keys=False)) if scores else ""
    found = FRONT.match(text)
    there = metadata(found[2]) if found else None
    if found is None or there is None:  # a text may begin with a rule
        front = "".join(f"{k}: {v}\n" for k, v in facts.items()) + index
        return f"---\n{front}---\n\n" + text.lstrip("\ufeff")
    begin, inside, end = found.groups()
    line_end = "\r\n" if begin.endswith("\r\n") else "\n"
    new = "".join(
        f"{k}: {v}{line_end}"
        for k, v in facts.items()
        if k not in there and not re.search(rf"^[\"']?{k}[\"']?\s*:", inside, re.M)
    )
    if metadata(inside + new) is None:  # written in a style that takes no further line
        return text
    inside = with_index(inside + new, index.replace("\n", line_end))
    return begin + inside + end + text[found.end() :]


def with_index(inside: str, index: str) -> str:
    """The front matter with our model-index in place of our earlier one; unchanged if it holds the user's, or cannot be changed
    without changing more."""
    before = loaded(inside)
    if before is None or (INDEX in before and not is_our_index(before[INDEX])):
        return inside
    others = INDEX_LINES.sub("", inside)
    place = found.start() if (found := INDEX_LINES.search(inside)) else len(others)
    new = others[:place] + index + others[place:]
    expected = {k: v for k, v in before.items() if k != INDEX} | (loaded(index) or {})
    return new if loaded(new) == expected and metadata(new) is not None else inside


def loaded(front: str) -> dict[Any, Any] | None:
    """The front matter as YAML; None when it is no mapping."""
    try:
        return found if isinstance(found := yaml.safe_load(front) or {}, dict) else None
    except Exception:  # whatever a parser of any text may raise
        return None


def metadata(front: str) -> dict[str, Any] | None:
    """The front matter as the Hub's own library reads it, of any YAML; None when it is no mapping."""
    if len(front) > MOST_FRONT:
        return None
    try:
        return (
            ModelCard(f"---\n{front}\n---\n", ignore_metadata_errors=True).data.to_dict()
            if front.strip()
            else {}
        )
    except Exception:  # whatever a parser of any text may raise
        return None
