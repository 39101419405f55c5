"""What a CUDA graph does, on the CPU: a step's operators are recorded and replayed on the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

Step = Callable[[], None]


class Tape(TorchDispatchMode):
    """Runs operators and keeps them. A graph has its own memory: replays write where the recording wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """Every operator again, with the numbers and tensors that it had, results into those it gave."""
        new: dict[int, Tensor] = {}
        for func, args, kwargs, out in self.calls:
            args, kwargs = tree_map_only(Tensor, lambda t: new.get(id(t), t), (args, kwargs))
            again = func(*args, **kwargs)
            if isinstance(out, Tensor):
                new[id(out)] = again
            elif isinstance(out, tuple | list):
                new.update({id(a): b for a, b in zip(out, again, strict=True)})


def recorded_operators(step: Step) -> Step:
    """Record a step. Unlike a graph's, this recording runs it: the first replay is left out for that."""
    tape, runs = Tape(), iter([None])
    with tape:
        step()

    def replay() -> None:
        if next(runs, tape) is tape:
            tape.replay()

    return replay
