"""Runs a training script of any nanochat checkout, unmodified, and saves the weights when it has to stop early.

    cd CHECKOUT; python keeper.py scripts.chat_sft -- --options      (or: torchrun ... keeper.py ...)

Needs only torch and the checkout's own `nanochat` package. Environment: NANOLAN_KEEP, a folder for this start of
the script; NANOLAN_SAVE_MINUTES, between two saves (0: none); NANOLAN_CPU_RANKS=1, see cpu_ranks.py.

Rank 0 writes model_SSSSSS.pt and meta_SSSSSS.json, S being the optimizer steps since the start: at SIGTERM
after the step under way, and every NANOLAN_SAVE_MINUTES. `beat.json` holds the step, its time and the stage. All
ranks exit with 0 after SIGTERM. SIGUSR1 prints all stacks.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import importlib.util
import os
import runpy
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

# All from SIGTERM on
LATE_S = 3.0  # to a save outside of a step boundary: a long evaluation, a hung collective
GIVE_UP_S = 8.0  # to an exit without a save: an optimizer step hangs
MARK_S = 30.0  # to the exit of a rank that finds no mark of rank 0
POLL_S = 0.1
CHECK_S = 10.0  # between two looks for weights that are NaN


class Keeper:
    """One rank's part: notes SIGTERM, saves (rank 0), exits with the others."""

    def __init__(self, folder: Any, save_s: float, rank: int, ranks: int) -> None:
        self.folder, self.rank, self.ranks = folder, rank, ranks
        self.lock = threading.RLock()  # held while weights are saved: no optimizer may start
        self.steps: Any = None
        self._save_s = save_s or float("inf")
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else 0
        self._loaded: list[tuple[weakref.ref[Any], dict[str, Any], list[int]]] = []
        self._asked = 0.0  # when SIGTERM came
        self._ended = False  # the script is over
        self._stepped = self._saved = 0.0  # time of the latest step, and of the latest save
        self._dt_s: float | None = None
        self._checked = 0.0  # when it was last seen whether the weights are numbers
        self._lost = False  # they are not
        self._told_unfollowed = False

    # --- the script's own calls -------------------------------------------------------------------

    def follow(self, optimizer_steps: Any) -> None:
        """Count the steps of the script's optimizers."""
        self.steps = optimizer_steps.Steps(self.lock, self.at_boundary)
        optimizer_steps.follow_optimizers(self.steps)

    def wrap(self, manager: ModuleType) -> None:
        """Replace load_model, and save_checkpoint if there is one, before the script imports them."""
        manager.__dict__["load_model"] = self._noting_model(manager.load_model)
        if hasattr(manager, "save_checkpoint"):
            manager.__dict__["save_checkpoint"] = self._undisturbed(manager.save_checkpoint)

    def _noting_model(self, load: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(load)
        def load_model(*args: Any, **kwargs: Any) -> Any:
            found = load(*args, **kwargs)
            self._note_model(found)
            return found

        return load_model

    def _undisturbed(self, save: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(save)
        def save_checkpoint(*args: Any, **kwargs: Any) -> Any:
            with self.lock:  # this process does not exit before it is done
                self.beat("save")
                try:
                    return save(*args, **kwargs)
                finally:
                    # after SIGTERM, too, the script gets LATE_S to end by itself
                    self._asked = self._asked and time.monotonic()
                    self.beat("train")

        return save_checkpoint

    def _note_model(self, found: Any) -> None:
        if isinstance(found, tuple) and len(found) > 2 and hasattr(found[0], "state_dict"):
            self._loaded.append((weakref.ref(found[0]), found[2], _versions(found[0])))
        else:
            self.say("load_model returned no (model, tokenizer, meta); its weights are not kept")

    def _trained(self) -> tuple[Any, dict[str, Any]] | None:
        """The loaded model whose weights the optimizers hold, and its meta."""
        groups = [g for o in self.steps.optimizers for g in getattr(o, "param_groups", [])]
        held = {id(p) for group in groups for p in group["params"]}
        for ref, meta, _ in self._loaded:
            if (model := ref()) is not None and any(id(p) in held for p in model.parameters()):
                return model, meta
        return None

    # --- between two steps ------------------------------------------------------------------------

    def at_boundary(self) -> None:
        """A whole step is done: stop if asked to, save if it is time."""
        now = time.monotonic()
        self._dt_s = round(now - self._stepped, 4) if self._stepped else None
        self._stepped, self._saved = now, self._saved or now
        if self.rank:
            return  # goes on until rank 0 leaves: it may need this rank for its next step
        due = now - self._saved >= self._save_s
        if due or self._asked or now - self._checked > CHECK_S:
            self._check()
        if due and not self._asked:
            self.keep(None)
            self._saved = self._stepped = time.monotonic()
        if self._asked:
            self.lock.acquire()  # never released
            self.keep("SIGTERM")
            self.leave("SIGTERM: stopped")
        self.beat("train")

    def _check(self) -> None:
        """See whether the weights are numbers. The printed loss does not tell: one empty batch spoils its mean."""
        self._checked, trained = time.monotonic(), self._trained()
        if trained and not self._lost and not self.steps.finite(trained[0]):
            self._lost = True
            self.say("a weight is not a number: nothing more is kept")
            self.folder.mark("not-finite")

    def keep(self, reason: str | None) -> None:
        """Save the weights; training continues whatever fails in it."""
        if self._lost:
            return
        step, trained = self.steps.count, self._trained()
        if trained is None:
            self.say("the trained model does not come from load_model: nothing is kept")
            return
        model, meta = trained
        self.beat("save")
        try:
            config = meta.get("model_config") or vars(model.config)
            row = meta | {"step": step, "model_config": config, "stopped_early": reason}
            with self.lock:
                self.folder.save(step, lambda path: self.steps.save(model, path), row)
            self.say(f"weights after step {step} saved in {self.folder.path}")
        except Exception as e:  # torch's writer reports a full disk as a RuntimeError
            problem = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
            self.say(f"warning: weights after step {step} not saved ({problem})")

    def open(self) -> None:
        """Create the folder on rank 0; without it the script runs all the same."""
        try:
            if not self.rank:
                self.folder.open()
        except OSError as e:
            self.say(f"warning: cannot write to {self.folder.path} ({e})")
        self.beat("load")

    def beat(self, stage: str, always: bool = False) -> None:
        """Write beat.json on rank 0."""
        count = self.steps.count if self.steps else 0
        if not self.rank:
            self.folder.beat(stage if count else "load", count, self._dt_s, always)

    def _begun(self) -> bool:
        return self.steps is not None and self.steps.begun

    def say(self, text: str) -> None:
        if not self.rank:
            print(f"keeper: {text}", flush=True)

    # --- SIGTERM ----------------------------------------------------------------------------------

    def listen(self) -> None:
        """Note SIGTERM, also while the main thread is stuck outside of Python; print stacks at SIGUSR1."""
        if sys.__stderr__ is not None:
            faulthandler.register(signal.SIGUSR1, sys.__stderr__, all_threads=True)
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_forget_signals)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    def _on_signal(self, number: int, frame: object) -> None:
        self._note()

    def _note(self) -> None:
        self._asked = self._asked or time.monotonic()

    def _watch(self, signals: int) -> None:
        while True:
            if select.select([signals], [], [], POLL_S)[0]:
                ours = signal.getsignal(signal.SIGTERM) == self._on_signal  # not the script's own
                if signal.SIGTERM in os.read(signals, 4096) and ours:
                    self._note()
            if self._parent and os.getppid() != self._parent:
                os._exit(1)  # torchrun is gone, and would have ended this rank
            if not self._ended and self.lock.acquire(blocking=False):
                try:
                    self._follow_rank_0() if self.rank else self._stop_late()
                finally:
                    self.lock.release()

    def _follow_rank_0(self) -> None:
        overdue = self._asked and time.monotonic() - self._asked > MARK_S
        if self.folder.may_leave() or overdue:
            self.leave("")

    def _stop_late(self) -> None:
        """Stop where the main thread does not come to a step boundary. Holds the lock."""
        self._tell_unfollowed()
        waited = time.monotonic() - self._asked if self._asked else 0.0
        if waited and not self._begun():
            self.leave("SIGTERM before the first optimizer step: nothing to save")
        elif waited > LATE_S and self.steps.settled():
            self.steps.close()
            self.keep("SIGTERM")
            self.leave("SIGTERM: stopped between two steps")
        elif waited > GIVE_UP_S:
            self.leave("SIGTERM: an optimizer step does not end; only earlier saves are kept")

    def _tell_unfollowed(self) -> None:
        """Say once that weights change though no optimizer step was seen."""
        if self._told_unfollowed or self._begun():
            return
        for ref, _, before in self._loaded:
            now = _versions(ref())
            if any(b - a > 2 for a, b in zip(before, now, strict=False)):
                self._told_unfollowed = True
                self.say(
                    "weights change without a step of a torch.optim.Optimizer: nothing is kept"
                )

    def leave(self, text: str) -> None:
        """End this process with 0: rank 0 first tells the others and lets them go."""
        self.say(text)
        try:
            if self.rank:
                self.folder.leave(self.rank)
            elif self.ranks > 1:
                self.folder.let_ranks_leave(self.ranks)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        except (OSError, ValueError):
            pass  # a full disk or a closed stream: the end is what counts
        os._exit(0)

    def run(self, module: str) -> None:
        """Run the script as __main__; its exit code and traceback are this program's."""
        whole = False  # it came to its own end
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            whole = True
        except SystemExit as e:
            whole = e.code in (None, 0)
            raise
        finally:
            self._ended = True
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.steps.close()
            self.beat("train", always=True)
            if not self.rank:
                self.folder.mark("finished") if whole else self._keep_after_error()

    def _keep_after_error(self) -> None:
        """The script failed: keep its steps, which may not be in a save of its own."""
        end = time.monotonic() + LATE_S
        while not (settled := self.steps.settled()) and time.monotonic() < end:
            time.sleep(POLL_S)
        if settled and self.steps.count:
            self.keep("error")


def _versions(model: Any) -> list[int]:
    """How often each weight was changed in place."""
    try:
        return [p._version for p in model.parameters()] if model is not None else []
    except RuntimeError:  # weights made under inference_mode are not counted
        return []


def _forget_signals() -> None:
    """In a forked child: SIGTERM is for the child alone."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def load_manager(keeper: Keeper) -> None:
    """Follow the checkout's checkpoint_manager; without it the script runs all the same."""
    name = "nanochat.checkpoint_manager"
    try:
        keeper.wrap(importlib.import_module(name))
    except Exception as e:  # whatever it is, the script shows it if it needs that module
        keeper.say(f"nothing is kept: no load_model in {name} ({type(e).__name__}: {e})")


def start_cpu_ranks() -> None:
    """NANOLAN_CPU_RANKS=1: let ranks work together without a GPU."""
    if os.environ.get("NANOLAN_CPU_RANKS") == "1" and "RANK" in os.environ:
        beside("cpu_ranks").start()


def beside(name: str) -> Any:
    """A module that lies next to this file."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader  # noqa: S101 - for the type checker: a .py file has a loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Take the module and its options from the command line."""
    words = [word for word in sys.argv[1:] if word != "--"]
    if not words or "NANOLAN_KEEP" not in os.environ:
        raise SystemExit("usage: NANOLAN_KEEP=FOLDER python keeper.py MODULE [-- OPTIONS]")
    sys.argv = words
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [str(Path.cwd()), *(p for p in sys.path if os.path.realpath(p or ".") != here)]
    rank, ranks = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1)))
    save_s = 60 * float(os.environ.get("NANOLAN_SAVE_MINUTES") or 0)
    folder = beside("keep_folder").Folder(Path(os.environ["NANOLAN_KEEP"]))
    keeper = Keeper(folder, save_s, rank, ranks)
    keeper.open()
    keeper.listen()
    keeper.follow(beside("optimizer_steps"))
    start_cpu_ranks()
    load_manager(keeper)
    keeper.run(words[0])


if __name__ == "__main__":
    main()
