"""Follows the optimizers of any script: when a step is whole, and the weights after it. Loaded by keeper.py."""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

SETTLED_S = 0.5  # no optimizer stepped for so long: none is left in this step


class Steps:
    """Counts whole steps: all of the script's optimizers have stepped once, and none is stepping.

    Which optimizers there are is learned: a step ends when the next one begins with an optimizer that has
    stepped, and from then on after the last of the known ones.
    """

    def __init__(self, lock: threading.RLock, at_boundary: Callable[[], None]) -> None:
        self._lock = lock  # held while weights are saved: no optimizer may start
        self.count = 0
        self.depth = 0  # optimizers that are stepping: one may call another, or its base class
        self.optimizers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._done: weakref.WeakSet[Any] = weakref.WeakSet()
        self._open = False  # a step has begun that is not counted
        self._last = 0.0
        self._event: Any = None  # on the GPU: the latest optimizer step is done
        self._at_boundary = at_boundary

    @property
    def begun(self) -> bool:
        return bool(self.count or self.depth or self._open)

    def before(self, optimizer: Any) -> None:
        """An optimizer starts to step; waits for a save under way."""
        if not self.depth and optimizer in self._done:
            self._finish()
            self._done.clear()
        with self._lock:
            self.depth += 1

    def after(self, optimizer: Any) -> None:
        """An optimizer has stepped."""
        if self.depth == 1:
            self._record()
        self.depth -= 1
        if self.depth:
            return
        self._open = self._open or not self._done
        self._done.add(optimizer)
        self.optimizers.add(optimizer)
        if self.count and self._done >= self.optimizers:
            self._finish()

    def _record(self) -> None:
        self._last = time.monotonic()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self._event = self._event or torch.cuda.Event()
            self._event.record()

    def _finish(self) -> None:
        if self.close():
            self._at_boundary()

    def close(self) -> bool:
        """Count the step that is open; False if there is none."""
        with self._lock:
            was_open, self._open = self._open, False
            self.count += was_open
        return was_open

    def settled(self) -> bool:
        """No optimizer is stepping, on the CPU or on the GPU. Hold the lock."""
        quiet = not self.depth and time.monotonic() - self._last > SETTLED_S
        return quiet and (self._event is None or self._event.query())

    def finite(self, model: Any) -> bool:
        """Whether all weights are numbers. Waits for the GPU."""
        return all(bool(torch.isfinite(p.detach()).all()) for p in model.parameters())

    def save(self, model: Any, path: Path) -> None:
        """Write the model's weights. Hold the lock."""
        torch.save(self._on_cpu(model), path)

    def _on_cpu(self, model: Any) -> dict[str, Any]:
        """The weights, copied on a stream of its own: a collective may hang on the default one."""
        state = {name.replace("_orig_mod.", ""): v for name, v in model.state_dict().items()}
        tensors = {name: v.detach() for name, v in state.items() if isinstance(v, torch.Tensor)}
        device = next((v.device for v in tensors.values() if v.is_cuda), None)
        if device is None:
            return state | {name: v.cpu() for name, v in tensors.items()}
        stream = torch.cuda.Stream(device)
        if self._event is not None:
            stream.wait_event(self._event)
        with torch.cuda.stream(stream):
            return state | {name: v.cpu() for name, v in tensors.items()}


def follow_optimizers(steps: Steps) -> None:
    """Call `steps` around every optimizer's step: by torch's hooks, and in classes defined from now on by a
    wrapper, since such a class may skip the hooks."""

    def wrap(cls: Any, **options: Any) -> None:
        super(Optimizer, cls).__init_subclass__(**options)
        if "step" in vars(cls):
            cls.step = _followed(cls.step, steps)

    register_optimizer_step_pre_hook(lambda o, args, kwargs: steps.before(o))
    register_optimizer_step_post_hook(lambda o, args, kwargs: steps.after(o))
    Optimizer.__init_subclass__ = classmethod(wrap)  # type: ignore[assignment]


def _followed(step: Callable[..., Any], steps: Steps) -> Callable[..., Any]:
    @functools.wraps(step)
    def followed(self: Any, *args: Any, **kwargs: Any) -> Any:
        depth = steps.depth
        steps.before(self)
        try:
            result = step(self, *args, **kwargs)
        except BaseException:
            steps.depth = depth
            raise
        steps.after(self)
        return result

    return followed
