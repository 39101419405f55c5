"""The checks before anything is rented. They also find the pinned inputs of the plan.

Each check is one line of the checklist; all of them run, even if an earlier one failed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from nanolan.checklist import Check
from nanolan.checkpoint.architecture import SEQUENCE_LEN
from nanolan.checkpoint.model_size import ModelSize, micro_batch
from nanolan.cost.budget import ASK_AGAIN_CENTS, limit_for, soft_life_s, soft_limit_cents
from nanolan.cost.forecast import Forecast, no_figures
from nanolan.cost.kept_text import money_text, time_text
from nanolan.errors import (
    AuthProblem,
    NanolanError,
    NotFound,
    PreflightFailed,
    UsageProblem,
)
from nanolan.hub.client import Hub, Tree, other_names
from nanolan.hub.input_check import (
    TOKEN_BYTES,
    TOKENIZER,
    InputFacts,
    check_together,
    inspect_identity,
    inspect_tokenizer,
)
from nanolan.hub.pins import pin_checkpoint, pin_dataset, reads_identity
from nanolan.money import dollars
from nanolan.net.deadline import start_thread
from nanolan.phases import IDENTITY_FILE
from nanolan.plan import Fork, Pinned
from nanolan.settings.settings import Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance

WALLET_CENTS = 500  # the minimum balance to rent anything at Shadeform


@dataclass
class Findings:
    """What the Hub checks found."""

    checks: list[Check] = field(default_factory=list)
    inputs: tuple[Pinned, ...] = ()
    datasets: tuple[Pinned, ...] = ()
    public: bool = False
    hf_repo: str | None = None  # as the Hub spells it
    runs_repo: str | None = None
    size: ModelSize | None = None  # of the input checkpoint

    @property
    def failed(self) -> list[Check]:
        return [c for c in self.checks if c.ok is False]


def check_hub(hub: Hub, settings: Settings) -> Findings:
    """Check write access, input checkpoint, tokenizer, identity data and data sets concurrently, and pin the inputs."""
    found = Findings()
    wanted = settings.data_files
    with ThreadPoolExecutor(8) as pool:
        writes = {
            r: pool.submit(hub.check_write, r)
            for r in {settings.hf_repo, settings.runs_repo or settings.hf_repo}
        }
        model = pool.submit(hub.tree, settings.hf_repo)
        runs = (
            pool.submit(hub.tree, settings.runs_repo)
            if settings.runs_repo not in (None, settings.hf_repo)
            else model
        )
        data = {r: pool.submit(pin_dataset, hub, r, globs) for r, globs in wanted.items()}
        for repo, answer in writes.items():
            _result(found, "Hub token", answer.result, f"may write {repo}")
        tree = _result(found, "Hub repo", model.result)
        if tree is not None:
            _check_model(found, hub, tree, settings)
        runs_tree = tree if runs is model else _result(found, "runs repo", runs.result)
        if tree and runs_tree:
            found.hf_repo, found.runs_repo = tree.repo, runs_tree.repo
            other = other_names(
                {
                    "HF_REPO": (settings.hf_repo, tree.repo),
                    "RUNS_REPO": (settings.runs_repo, runs_tree.repo),
                }
            )
            found.checks += [Check("repo name", None, text) for text in other]
            found.public = not (tree.private and runs_tree.private)
            found.checks += _check_privacy(tree, runs_tree)
        pins = [_result(found, f"data set {repo}", answer.result) for repo, answer in data.items()]
        found.datasets = tuple(p for p in pins if p)
    if found.datasets and len(found.datasets) == len(wanted):
        size = sum(d.size for d in found.datasets) / 1e6
        found.checks.append(
            Check(
                "data sets",
                True,
                f"{', '.join(d.repo for d in found.datasets)} pinned ({size:,.0f} MB)",
            )
        )
    return found


def _check_model(found: Findings, hub: Hub, tree: Tree, settings: Settings) -> None:
    """Pin and check the input checkpoint, the tokenizer and the identity data of HF_REPO concurrently."""
    folder = settings.input_folder
    own = settings.fork is None

    def pin() -> tuple[Pinned, InputFacts]:
        source = hub.tree(settings.input_repo) if settings.init else tree
        return pin_checkpoint(hub, source, folder, own=own, named=bool(settings.init))

    checkpoint, tokenizer = (
        start_thread(pin),
        start_thread(lambda: _pin_tokenizer(hub, tree)),
    )
    identity = start_thread(lambda: _pin_identity(hub, tree, settings))
    model = _result(found, "input checkpoint", checkpoint.result)
    tokens = _result(found, "tokenizer", tokenizer.result)
    conversations = _result(found, "identity data", identity.result)
    if model and tokens:
        _result(found, "tokenizer", lambda: check_together(model[1], tokens[1], folder))
    if model:
        found.size = model[1].size
        found.checks.append(
            Check(
                "input checkpoint",
                True,
                f"{settings.init or folder} ({model[0].size / 1e6:,.0f} MB, "
                f"{'proven' if model[0].proven else 'unproven: no manifest, pinned by size and hash'})",
            )
        )
    if conversations is None and (settings.no_identity or IDENTITY_FILE not in tree.files):
        found.checks.append(_check_identity(settings, IDENTITY_FILE in tree.files, tree.repo))
    found.inputs = tuple(pin[0] for pin in (model, tokens, conversations) if pin)


def _pin_identity(hub: Hub, tree: Tree, settings: Settings) -> tuple[Pinned, InputFacts] | None:
    """The identity conversations; None if the repo has none or the settings exclude them."""
    if IDENTITY_FILE not in tree.files or settings.no_identity:
        return None
    pin = tree.pin([IDENTITY_FILE])
    read = reads_identity(settings)
    return pin, inspect_identity(hub, pin, settings.fork) if read else InputFacts("not read")


def _check_identity(settings: Settings, there: bool, repo: str) -> Check:
    """Without the identity file mid fails, and sft continues; with --no-identity every phase continues."""
    if settings.no_identity:
        return Check(
            "identity data",
            None,
            f"{'left out' if there else 'none'} (--no-identity): the model will not learn its name and creator",
        )
    text = f"no {IDENTITY_FILE} in {repo}"
    if "mid" not in settings.phases:
        return Check("identity data", None, f"{text}: training continues without it")
    write = "Write one: just identity name=... creator=..., then: just upload data"
    text = f"{text}. {write}; or train without it: --no-identity"
    return Check("identity data", False, text)


def _check_privacy(model: Tree, runs: Tree) -> list[Check]:
    """A notice for each public repo: which parts of the run will be public."""
    what = {model.repo: ["checkpoints"]}
    what.setdefault(runs.repo, []).extend(["logs", "plan", "code"])
    hint = "; RUNS_REPO=owner/private-repo keeps logs, plan and code private"
    return [
        Check(
            "privacy",
            None,
            f"{tree.repo} is PUBLIC: {', '.join(what[tree.repo])} of this run will be too{hint * (tree is runs)}",
        )
        for tree in ([model] if runs is model else [model, runs])
        if not tree.private
    ]


def check_memory(size: ModelSize, gpu: str, vram_gb: int) -> Check:
    """Whether the phases' rows of 2,048 tokens fit the memory of the offer's GPUs."""
    try:
        rows = micro_batch(size, SEQUENCE_LEN, vram_gb)
    except UsageProblem as e:
        return Check(
            "GPU memory",
            False,
            f"{gpu}: {e}; nothing was rented. Try a GPU with more: just offers --all-configs",
        )
    return Check(
        "GPU memory",
        True,
        f"{size.n_params / 1e6:,.0f}M parameters on {vram_gb} GB: {rows} rows at a time",
    )


def _pin_tokenizer(hub: Hub, tree: Tree) -> tuple[Pinned, InputFacts]:
    paths = [p for p in (TOKENIZER, TOKEN_BYTES) if p in tree.files]
    if TOKENIZER not in paths:
        raise PreflightFailed(f"{tree.repo} has no {TOKENIZER}. Upload it: just upload tokenizer")
    pin = tree.pin(paths)
    return pin, inspect_tokenizer(hub, pin, pin.files)


def check_money(
    limit_cents: int,
    hourly_cents: int,
    expected: Forecast | None,
    yes_really: bool = False,
    fork: Fork | None = None,
) -> Check:
    """The soft limit must be above the likely cost of the run; `yes_really` accepts any limit, with a note."""
    soft = soft_limit_cents(limit_cents, hourly_cents)
    likely, high = (expected.likely_cents, expected.high_cents) if expected else (0, 0)
    text = f"{money_text(limit_cents, limit_cents - soft)}; the run: " + (
        expected.text() if expected else f"{no_figures(fork)}, so there is no forecast"
    )
    if soft <= likely:
        least = limit_for(high, hourly_cents)
        hint = f"spend-limit={least}" if least else "another offer"
        return _unless_yes_really("spend limit", f"{text}; it would be cut off", hint, yes_really)
    if limit_cents > ASK_AGAIN_CENTS:
        return _unless_yes_really(
            "spend limit",
            f"{text}; limits above {dollars(ASK_AGAIN_CENTS)} must be confirmed",
            "",
            yes_really,
        )
    return Check("spend limit", True if expected else None, text)


def check_time(
    max_duration_s: int | None, expected: Forecast | None, yes_really: bool = False
) -> list[Check]:
    """The same check for --max-duration, if it is given."""
    if max_duration_s is None:
        return []
    likely_s, high_s = (expected.seconds.likely, expected.seconds.high) if expected else (0.0, 0.0)
    kept_s = max_duration_s - soft_life_s(max_duration_s)
    text = time_text(max_duration_s, kept_s) + (
        f"; the run: likely {likely_s / 60:.0f}, up to {high_s / 60:.0f}" if expected else ""
    )
    if soft_life_s(max_duration_s) <= likely_s:
        hint = f"max-duration={(high_s + kept_s) // 60 + 1:.0f}m"
        return [
            _unless_yes_really("max duration", f"{text}; it would be cut off", hint, yes_really)
        ]
    return [Check("max duration", True if expected else None, text)]


def _unless_yes_really(name: str, text: str, hint: str, yes_really: bool) -> Check:
    """A check that fails unless --yes-really was given, which is noted."""
    if yes_really:
        return Check(name, None, f"{text}; accepted by --yes-really")
    return Check(name, False, f"{text}. Try: {' or '.join(filter(None, (hint, '--yes-really')))}")


def wallet_hint(expected_cents: int | None) -> Check:
    """State what the wallet must hold; the API does not show its balance."""
    least = dollars(WALLET_CENTS)
    run = (
        f", the run about {dollars(expected_cents)}" if (expected_cents or 0) > WALLET_CENTS else ""
    )
    return Check("wallet", None, f"Shadeform does not show it; renting needs {least} in it{run}")


def check_box_key(settings: Settings, instances: Callable[[], list[Instance]] | None) -> Check:
    """Which Shadeform key goes to the box; a second one must belong to the same account, or the box cannot delete itself."""
    name = "key on the machine"
    second = settings.shadeform_api_key_box
    if not settings.self_delete:
        return Check(
            name,
            None,
            "none (self-delete=off): the instance cannot delete itself. Run just guard on a machine that stays on, "
            "or the instance bills until the provider deletes it at its date",
        )
    if second is None:
        return Check(
            name,
            None,
            "your SHADEFORM_API_KEY, so that the box can delete itself; the guide shows alternatives",
        )
    if second == settings.shadeform_api_key:
        return Check(
            name,
            False,
            "SHADEFORM_API_KEY_BOX is the same key as SHADEFORM_API_KEY. Make a second one, or leave it out",
        )
    try:
        seen = {i.id for i in Shadeform(second, settings.shadeform_api).instances()}
        missing = {i.id for i in instances() if i.billing} - seen if instances else set()
    except AuthProblem:
        return Check(
            name,
            False,
            "Shadeform refused SHADEFORM_API_KEY_BOX: make another one, or leave it out",
        )
    except NanolanError as e:
        return Check(name, False, f"SHADEFORM_API_KEY_BOX could not be checked: {e}")
    if missing:
        return Check(
            name,
            False,
            f"SHADEFORM_API_KEY_BOX does not see instance {min(missing)}: it belongs to another account",
        )
    return Check(
        name,
        True,
        "your second key, SHADEFORM_API_KEY_BOX; it works. You may revoke it after the run",
    )


def check_outputs(instances: list[Instance], out_tags: list[str]) -> Check:
    """No live instance may write this run's output folder; letter case does not distinguish repos on the Hub."""
    mine = {t.lower(): t for t in out_tags}
    for i in instances:
        clash = sorted(mine[t.lower()] for t in i.tags if t.lower() in mine)
        if clash and i.billing:
            return Check(
                "output folder",
                False,
                f"{clash[0].partition('=')[2]} is being written by {i.name}; wait, "
                f"stop it (just stop {i.id}) or use another folder: output-tag=NAME",
            )
    return Check("output folder", True, ", ".join(t.partition("=")[2] for t in out_tags))


def _result(found: Findings, name: str, read: Callable[[], Any], good: str = "") -> Any:
    """`read()`, or None with a failed check; `good` is the text of a passed check."""
    try:
        value = read()
        if good:
            found.checks.append(Check(name, True, good))
        return value
    except NotFound as e:
        hint = ". Check the name, or upload what it should hold, which creates it: just upload base"
        found.checks.append(Check(name, False, f"{e}{hint if name == 'Hub repo' else ''}"))
    except NanolanError as e:
        found.checks.append(Check(name, False, str(e)))
    return None
