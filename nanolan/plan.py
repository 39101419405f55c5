"""The plan: the one value that crosses from the laptop to the box. No secrets in it.

Strict both ways: a field that this version does not know is refused before anything trains.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from nanolan.errors import BadAnswer
from nanolan.times import parse_time

VERSION = 1
MOST = 1e13  # of any number in what a run tells: seconds, cents, bytes, tokens
T = TypeVar("T")
# What msgspec raises for what is no JSON of a type: not UTF-8 and nested too deep are no DecodeError
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen value with typed JSON; unknown fields and wrong types are refused."""


class PinnedFile(Strict, frozen=True):
    """One file of a pinned repo: size in bytes; sha256 for LFS files, git blob sha1 for small ones."""

    path: str
    size: int
    sha256: str | None
    git_sha1: str


class Pinned(Strict, frozen=True):
    """Files of one Hub repo at one revision: what the box downloads, and checks."""

    repo: str
    kind: str  # "model" or "dataset"
    revision: str
    files: tuple[PinnedFile, ...]
    proven: bool = False  # True: matches the manifest of the run that made it

    @property
    def size(self) -> int:
        return sum(f.size for f in self.files)


class Rented(Strict, frozen=True):
    """The offer that was agreed to."""

    cloud: str
    region: str
    instance_type: str
    gpu: str
    num_gpus: int
    vram_gb: int
    hourly_cents: int  # the whole machine
    os: str


class Code(Strict, frozen=True):
    """The exact code that runs: a git bundle in the run folder."""

    commit: str
    sha256: str
    size: int
    dirty: bool


class Predicted(Strict, frozen=True):
    """What the run should cost, from create to delete, in cents; and the upper estimate of each of its phases alone."""

    low_cents: int
    likely_cents: int
    high_cents: int
    phase_high_cents: dict[str, int] = {}
    stage_s: dict[
        str, int
    ] = {}  # likely seconds by stage: boot, setup, download, sft.train, sft.evaluate, upload


def check_names(paths: Iterable[str]) -> None:
    """BadAnswer unless files of these names stay below the folder that they are downloaded to, each in its own, on any system."""
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
                f"{path[:80]!r} is no name for a file: it could lead out of its folder. Nothing was downloaded"
            )
        other = seen.setdefault(unicodedata.normalize("NFKC", path).casefold(), path)
        if other != path:
            raise BadAnswer(
                f"{path[:80]!r} and {other[:80]!r} are the same file on some systems. Nothing was downloaded"
            )


class Plan(Strict, frozen=True):
    """Everything the box needs to know, except secrets."""

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
    recipe: dict[
        str, int | float | dict[str, int | float]
    ] = {}  # under a phase's name: for that phase alone
    trainer: str = "nanolan.train"  # a module; anything but the default runs without torchrun
    setup: str = "train"  # which set scripts/setup.sh installs
    min_free_gb: int = 60
    keep_old: bool = False
    attempt: int = 1  # counted over all machines of this run
    evaluate: str = "none"  # after each phase: none, quick, full
    humaneval: bool = False  # runs code that the model wrote
    identity: bool | None = (
        None  # True: mid needs the identity file; False: it is left out; None: used if there
    )
    save_minutes: float = 10.0  # between states saved on the box's disk
    upload_minutes: float = 10.0  # between such states sent to the Hub
    model_only: bool = False  # a saved state of another number of processes gives its weights alone
    usual: dict[
        str, float
    ] = {}  # tok/s by phase, bytes/s of "download": what earlier runs measured on such a machine
    usual_runs: int = 0  # how many
    watch_s: dict[
        str, float
    ] = {}  # stages' deadlines other than those of nanolan/box/watch/progress.py
    gate: str | None = None  # between phases, see nanolan/phases.py
    parameters: int | None = None  # of the input checkpoint's model; None: its meta was not read
    probation_cents: int = 200  # by then the machine must have proved itself
    predicted: Predicted | None = None  # None: no figures for this GPU
    self_delete: bool = True  # False: no Shadeform key is on the machine, others delete it
    resume: Pinned | None = (
        None  # the saved state that the first phase goes on from: files of runs/<id>/saved/<phase>/
    )
    public: bool = (
        False  # anybody can read the repos: a secret that was masked in the log is said loudly
    )
    wandb_base_url: str = "https://api.wandb.ai"
    version: int = VERSION

    @property
    def folder(self) -> str:
        """The run folder in runs_repo."""
        return f"runs/{self.run_id}"

    @property
    def instance_name(self) -> str:
        """`lanbot-<phase>-<YYYYMMDD-HHMM>-<id>`; a later attempt has its number before the id: `-a2-<id>`."""
        stamp = parse_time(self.created_at).strftime("%Y%m%d-%H%M")
        again = f"a{self.attempt}-" if self.attempt > 1 else ""
        return f"lanbot-{'-'.join(self.phases)}-{stamp}-{again}{self.run_id}"

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self))


def read_plan(data: bytes | str) -> Plan:
    """A Plan from JSON; BadAnswer says which field is wrong."""
    try:
        version = msgspec.json.decode(data, type=dict).get("version")
        if version != VERSION:
            raise BadAnswer(
                f"plan.json is of version {version!r}; this code reads version {VERSION}"
            )
        return within_reason(msgspec.json.decode(data, type=Plan), "plan.json")
    except UNREADABLE as e:
        raise BadAnswer(f"plan.json cannot be read: {str(e)[:200]}") from None


def within_reason(value: T, where: str) -> T:
    """`value` if no number in it is one that no run has: dates and sums made of such would fail far from here."""

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
        raise BadAnswer(f"{where} holds the number {wrong[0]:.3g}: it cannot be true")
    return value


def new_run_id() -> str:
    """8 random hex digits; never only digits, so that it cannot be taken for a number or a date."""
    while (run_id := secrets.token_hex(4)).isdigit():
        pass
    return run_id
