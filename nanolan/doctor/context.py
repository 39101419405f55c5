"""The inputs of `just doctor`: this machine, its settings and both accounts; each shared request is made once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from nanolan.errors import AuthProblem, NanolanError, UsageProblem
from nanolan.hub.client import Hub, Tree
from nanolan.hub.layout import Piece, look
from nanolan.phases import SEQUENCES
from nanolan.run.ledger import Entry, Ledger
from nanolan.settings.settings import OWN_TRAINER, TABLE, Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Created, Instance
from nanolan.times import machine_now
from nanolan.trainers.choose import with_trainer

T = TypeVar("T")
DECODED = (Entry, Created)


def once(call: Callable[[], T]) -> Callable[[], T]:
    """Wrap `call` so that it runs once: later and concurrent callers get the same result or error."""
    lock = threading.Lock()
    answer = Future[T]()

    def ask() -> T:
        with lock:
            if not answer.done():
                try:
                    answer.set_result(call())
                except Exception as e:
                    answer.set_exception(e)
        return answer.result()

    return ask


@dataclass(frozen=True)
class DoctorContext:
    """Everything that a check may use; a client is None without its key or token."""

    settings: Settings
    setting_errors: tuple[str, ...]
    environ: Mapping[str, str]
    env_file: Path
    root: Path  # the checkout
    ledger: Ledger
    keys: Path  # .ssh_keys/
    api: Shadeform | None
    hub: Hub | None
    instances: Callable[[], list[Instance]]
    tree: Callable[[], Tree]  # of HF_REPO
    structure: Callable[[], list[Piece]]
    now: Callable[[], datetime] = machine_now  # compared with the services' clocks


def trainer_read(s: Settings, folder: Path) -> tuple[Settings, tuple[str, ...]]:
    """The settings with the phases of their trainer; with nanolan's own, and a message, if it cannot be used."""
    try:
        return with_trainer(s, folder)[0], ()
    except NanolanError as e:
        phase = s.phase if s.phase in SEQUENCES else TABLE["phase"]["default"]
        own = replace(s, trainer=OWN_TRAINER, train_options=None, phase=phase)
        return own, (f"TRAINER: {e}",)


def open_context(
    settings: Settings,
    setting_errors: tuple[str, ...],
    environ: Mapping[str, str],
    env_file: Path,
    root: Path,
    home: Path,
    keys: Path,
    patience_s: float,
) -> DoctorContext:
    """The context of these settings, with clients that give up after `patience_s` seconds."""
    # msgspec can crash when two threads decode a type for the first time
    for shape in DECODED:
        msgspec.json.Decoder(shape)
    api = (
        Shadeform(settings.shadeform_api_key, settings.shadeform_api)
        if settings.shadeform_api_key
        else None
    )
    hub = (
        Hub(settings.hf_endpoint, settings.hf_token, patience_s=patience_s)
        if settings.hf_token
        else None
    )

    def instances() -> list[Instance]:
        if api is None:
            raise AuthProblem("not checked without SHADEFORM_API_KEY")
        return api.instances()

    def tree() -> Tree:
        if hub is None or settings.hf_repo is None:
            raise UsageProblem("not checked without HF_TOKEN and HF_REPO")
        return hub.tree(settings.hf_repo)

    tree_of_repo = once(tree)

    def structure() -> list[Piece]:
        found = tree_of_repo()
        return look(hub, found, settings.model_tag, settings.fork) if hub else []

    return DoctorContext(
        settings,
        setting_errors,
        environ,
        env_file,
        root,
        Ledger(home),
        keys,
        api,
        hub,
        once(instances),
        tree_of_repo,
        once(structure),
    )
