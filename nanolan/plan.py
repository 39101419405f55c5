"""The plan: everything that the laptop passes to the box, without secrets.

Decoding is strict: a field that this version does not know is refused before training.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar

import msgspec

from nanolan.errors import BadAnswer
from nanolan.phases import PHASES, Phase
from nanolan.times import parse_time

VERSION = 1
SHADEFORM, SKYPILOT, HF_JOB = "shadeform", "skypilot", "hf-job"
MOST = 1e13  # largest number in a plan or record: seconds, cents, bytes, tokens
T = TypeVar("T")
# msgspec's errors for JSON of another type; invalid UTF-8 and deep nesting raise their own errors
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen value with typed JSON; decoding refuses unknown fields and wrong types."""


class PinnedFile(Strict, frozen=True):
    """One file of a pinned repo: size in bytes; sha256 for LFS files, git blob sha1 for small ones."""

    path: str
    size: int
    sha256: str | None
    git_sha1: str


class Pinned(Strict, frozen=True):
    """Files of one Hub repo at one revision, which the box downloads and checks."""

    repo: str
    kind: str  # "model" or "dataset"
    revision: str
    files: tuple[PinnedFile, ...]
    proven: bool = False  # True: matches the manifest of the run that made it

    @property
    def size(self) -> int:
        return sum(f.size for f in self.files)


class Rented(Strict, frozen=True, omit_defaults=True):
    """The offer that was agreed to. Without spot it is written as before there was spot: a run's own code may be older."""

    cloud: str
    region: str
    instance_type: str
    gpu: str
    num_gpus: int
    vram_gb: int
    hourly_cents: int  # of the whole instance
    os: str
    spot: bool = False  # the provider may take the instance away at any time

    @property
    def where(self) -> str:
        kind = " (spot)" if self.spot else ""
        return f"{self.num_gpus}x {self.gpu} at {self.cloud}/{self.region}{kind}"


class Code(Strict, frozen=True):
    """The exact code that runs: a git bundle in the run folder."""

    commit: str
    sha256: str
    size: int
    dirty: bool


OWN_PYTHON = "-"


class Fork(Strict, frozen=True):
    """A foreign trainer: a nanochat checkout of one commit, and how it is driven (nanolan/trainers/)."""

    row: str  # of the table in nanolan/trainers/rows.py
    source: str  # the folder's name, or an https URL
    commit: str
    code: Code | None  # fork.bundle in the run folder; None: fetched from the URL
    phases: dict[str, Phase]
    data: str  # "task_data": laid out from the pinned data sets; "online": it downloads its own; "task_data+online": both
    evaluation: str = ""  # the module that evaluates, "" if it has none
    evaluation_arguments: tuple[str, ...] = ()
    python: str = ""  # in rehearsals: an interpreter that is used as it is, OWN_PYTHON for the box's; "": installed


class Predicted(Strict, frozen=True):
    """The forecast cost of the run, from create to delete, in cents; and the upper estimate of each phase."""

    low_cents: int
    likely_cents: int
    high_cents: int
    phase_high_cents: dict[str, int] = {}
    # likely seconds by stage: boot, setup, download, sft.train, sft.evaluate, upload
    stage_s: dict[str, int] = {}


def check_names(paths: Iterable[str]) -> None:
    """BadAnswer unless every path stays inside its download folder and no two are the same file, on any system."""
    seen: dict[str, str] = {}
    for path in paths:
        if (
            not path.isprintable()
            or len(path) > 400
            or re.search(r'[\\:*?"<>|]', path)
            or any(
                p in ("", ".git") or p != p.strip(" ") or p[-1] == "." or len(p.encode()) > 255
                for p in path.split("/")
            )
        ):
            raise BadAnswer(
                f"{path[:80]!r} is not a safe file name: it could lead out of its folder. Nothing was downloaded"
            )
        other = seen.setdefault(unicodedata.normalize("NFKC", path).casefold(), path)
        if other != path:
            raise BadAnswer(
                f"{path[:80]!r} and {other[:80]!r} are the same file on some systems. Nothing was downloaded"
            )


class Limits(Strict, frozen=True, omit_defaults=True):
    """What the launch allowed an offer to be; None: no limit. `just resume` and a take-over keep it."""

    max_price: int | None = None  # cents an hour
    max_total: int | None = None  # cents that the forecast may be
    max_duration: int | None = None  # seconds of each instance
    cloud: str | None = None
    region: str | None = None


class Plan(Strict, frozen=True):
    """Everything that the box needs, except secrets."""

    run_id: str
    run_name: str
    owner: str
    created_at: str  # ISO-8601 UTC
    deadline: str  # ISO-8601 UTC: the provider deletes the instance then
    limit_cents: int
    phases: tuple[str, ...]
    model_tag: str
    output_tag: str
    hf_repo: str
    runs_repo: str
    hf_endpoint: str
    shadeform_api: str
    offer: Rented
    code: Code
    inputs: tuple[Pinned, ...]  # checkpoint, tokenizer, identity data
    datasets: tuple[Pinned, ...]
    wandb_project: str
    device: str = "cuda"  # "cpu" in rehearsals only
    processes: int = 1
    batch: int | None = None
    # under a phase's name: for that phase only
    recipe: dict[str, int | float | dict[str, int | float]] = {}
    trainer: str = "nanolan.train"  # a module; anything but the default runs without torchrun
    fork: Fork | None = None  # None: nanolan's own trainer
    setup: str = "train"  # which set scripts/setup.sh installs
    min_free_gb: int = 60
    keep_old: bool = False
    attempt: int = 1  # counts all instances of this run
    evaluate: str = "none"  # after each phase: none, quick, full
    humaneval: bool = False  # runs code that the model wrote
    # True: mid needs the identity file; False: mid ignores it; None: used if it exists
    identity: bool | None = None
    save_minutes: float = 10.0  # between states saved on the box's disk
    upload_minutes: float = 10.0  # between states uploaded to the Hub
    model_only: bool = (
        False  # resume only the weights: the state was saved by another number of processes
    )
    # measured by earlier runs on the same instance type: tok/s by phase, bytes/s of "download"
    usual: dict[str, float] = {}
    usual_runs: int = 0  # number of these runs
    # deadlines of stages that replace those of nanolan/box/watch/progress.py
    watch_s: dict[str, float] = {}
    init: str | None = (
        None  # folder of the input checkpoint, if it is another than the phase's own; "" is a repo's root
    )
    gate: str | None = None  # between phases, see nanolan/phases.py
    parameters: int | None = None  # of the input model; None: its meta was not read
    probation_cents: int = 200  # the bill at which an instance that does not train is deleted
    predicted: Predicted | None = None  # None: no figures for this GPU
    self_delete: bool = (
        True  # False: the instance has no Shadeform key; just guard or just stop deletes it
    )
    # who rents the machine and ends it; all but shadeform start and end it without nanolan
    platform: Literal["shadeform", "skypilot", "hf-job"] = "shadeform"
    # the saved state that the first phase resumes from: files of runs/<id>/saved/<phase>/
    resume: Pinned | None = None
    # everybody can read the repos: the run warns if a secret was masked in the log
    public: bool = False
    wandb_base_url: str = "https://api.wandb.ai"
    nanolan: str = ""  # the version of nanolan that made the plan
    limits: Limits | None = None  # None: made by a nanolan that did not keep them
    version: int = VERSION

    @property
    def folder(self) -> str:
        """The run folder in runs_repo."""
        return f"runs/{self.run_id}"

    @property
    def is_job(self) -> bool:
        """Whether somebody else than nanolan rents its machines: SkyPilot, Hugging Face Jobs."""
        return self.platform != SHADEFORM

    @property
    def holds_key(self) -> bool:
        """Whether a Shadeform key is on its machine."""
        return self.self_delete and not self.is_job

    def phase(self, name: str) -> Phase:
        """A phase of this plan's trainer."""
        return self.fork.phases[name] if self.fork else PHASES[name]

    @property
    def input_folder(self) -> str:
        """The checkpoint that the first phase starts from, in the repo that pins it."""
        if self.init is not None:
            return self.init
        return f"{self.phase(self.phases[0]).input_dir}/{self.model_tag}"

    def result_folder(self, phase: str) -> str:
        """Where the result of a phase goes, in HF_REPO."""
        return f"{self.phase(phase).output_dir}/{self.output_tag}"

    @property
    def instance_name(self) -> str:
        """`lanbot-<phase>-<YYYYMMDD-HHMM>-<id>`; later attempts have their number before the id: `-a2-<id>`."""
        stamp = parse_time(self.created_at).strftime("%Y%m%d-%H%M")
        again = f"a{self.attempt}-" if self.attempt > 1 else ""
        return f"lanbot-{'-'.join(self.phases)}-{stamp}-{again}{self.run_id}"

    def to_json(self) -> bytes:
        """Without `limits` it is written as before there were any: a run's own code may be older."""
        fields = msgspec.to_builtins(self)
        if self.limits is None:
            del fields["limits"]
        return msgspec.json.format(msgspec.json.encode(fields))


def read_plan(data: bytes | str) -> Plan:
    """A Plan from JSON; BadAnswer says which field is wrong."""
    try:
        version = msgspec.json.decode(data, type=dict).get("version")
        if version != VERSION:
            raise BadAnswer(f"plan.json has version {version!r}; this code reads version {VERSION}")
        return check_numbers(msgspec.json.decode(data, type=Plan), "plan.json")
    except UNREADABLE as e:
        raise BadAnswer(f"plan.json cannot be read: {str(e)[:200]}") from None


def check_numbers(value: T, where: str) -> T:
    """Return `value`, or raise BadAnswer if a number in it is above `MOST`: dates and sums would overflow later."""

    def numbers(part: Any) -> Iterator[float]:
        inside = (
            part.values()
            if isinstance(part, dict)
            else part
            if isinstance(part, (list, tuple))
            else ()
        )
        yield from (
            (part,) if isinstance(part, (int, float)) else (n for p in inside for n in numbers(p))
        )

    if wrong := [n for n in numbers(msgspec.to_builtins(value)) if not abs(n) <= MOST]:
        raise BadAnswer(f"{where} holds the number {wrong[0]:.3g}: out of range")
    return value


def new_run_id() -> str:
    """8 random hex digits; never only digits, so that it is not mistaken for a number or a date."""
    while (run_id := secrets.token_hex(4)).isdigit():
        pass
    return run_id
