"""wandb, behind metrics.jsonl: one run per phase of a nanolan run, which a resumed phase continues.

It can never stop or hold up a training: starting and finishing have a time limit each, an error ends the sink and not the run.
When wandb cannot be reached at the start, what is logged is kept on disk and sent at the end, if it can be reached then.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

INIT_S = 30.0  # to start, online or, after that failed, offline
FINISH_S = 30.0  # to send what is left
OFFLINE_S = (
    8.0  # of INIT_S is for starting offline; of the rest, half is for the import on a busy disk
)


class Sink:
    """A wandb run; `wanted` has project, name, group, id."""

    def __init__(
        self,
        wanted: Mapping[str, str],
        folder: Path,
        config: dict[str, Any],
        *,
        init_s: float = INIT_S,
        finish_s: float = FINISH_S,
    ) -> None:
        self._wanted, self._folder, self._config, self._finish_s = wanted, folder, config, finish_s
        self._run: Any = None
        self._offline = ""  # the folder of what is to be sent at the end
        problem = within(
            lambda: self._start("online", (init_s - OFFLINE_S) / 2), init_s - OFFLINE_S
        )
        if problem is not None and not isinstance(problem, (TimeoutError, ImportError)):
            warn(f"wandb cannot be reached; its run is kept on disk ({_short(problem)})")
            problem = within(lambda: self._start("offline", OFFLINE_S), OFFLINE_S)
        if problem is not None:
            self._drop(problem)

    def _start(self, mode: str, init_s: float) -> None:
        import wandb

        wandb.teardown()  # of a start that failed, which holds the id
        settings = wandb.Settings(init_timeout=init_s, console="off", quiet=True)
        run = wandb.init(
            project=self._wanted.get("project"),
            name=self._wanted.get("name"),
            group=self._wanted.get("group"),
            id=self._wanted.get("id"),
            resume="allow",
            dir=str(self._folder),
            config=self._config,
            settings=settings,
            mode=mode,  # type: ignore[arg-type]
        )
        run.define_metric("step")
        run.define_metric(
            "*", step_metric="step"
        )  # a resumed phase takes steps up again: wandb's own counter only grows
        self._offline = run.settings.sync_dir if mode == "offline" else ""
        self._run = run

    def log(self, row: Mapping[str, Any]) -> None:
        """One row of numbers."""
        if self._run is not None:
            try:
                self._run.log(dict(row))
            except Exception as e:  # whatever it is, training goes on
                self._drop(e)

    def close(self) -> None:
        """Let it send what it holds, for a while."""
        run, self._run = self._run, None
        if run is None:
            return
        if (problem := within(run.finish, self._finish_s)) is not None:
            self._drop(problem)
        elif self._offline:
            self._sync()

    def _sync(self) -> None:
        """Send what was kept on disk."""
        try:
            done = subprocess.run(
                [sys.executable, "-m", "wandb", "sync", "--yes", self._offline],
                capture_output=True,
                text=True,
                timeout=self._finish_s,
                check=False,
            )
            problem = (
                ""
                if done.returncode == 0
                else " ".join((done.stderr or done.stdout).split())[-200:]
            )
        except subprocess.TimeoutExpired:
            problem = f"no answer within {self._finish_s:.0f} s"
        if problem:
            warn(
                f"wandb's run could not be sent ({problem}); while this machine lives: wandb sync {self._offline}"
            )

    def _drop(self, problem: BaseException) -> None:
        self._run = None
        warn(f"going on without wandb ({_short(problem)})")


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _short(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"


def within(act: Callable[[], object], limit_s: float) -> BaseException | None:
    """Run `act` in a thread of its own; what it raised, or TimeoutError if it is not done after `limit_s`."""
    problems: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as e:  # handed to the caller, whatever it is
            problems.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        return TimeoutError(f"no answer within {limit_s:.0f} s")
    return problems[0] if problems else None
