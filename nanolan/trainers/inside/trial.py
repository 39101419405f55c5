"""Run in a fork's own interpreter, in its folder, before it trains:

    python trial.py GPUS SOURCE MODULE...

Imports what its scripts need, counts the GPUs, and loads the input checkpoint in NANOCHAT_BASE_DIR with the fork's own loader.
The last line says what was found, or what is wrong. Imports nothing of nanolan.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """0 if the fork can work here."""
    gpus, source, modules = int(argv[0]), argv[1], argv[2:]
    sys.path.insert(0, str(Path.cwd()))
    try:
        print(trial(gpus, source, modules), flush=True)
    except Exception as e:
        print(f"{type(e).__name__}: {' '.join(str(e).split())[:250]}", flush=True)
        return 1
    return 0


def trial(gpus: int, source: str, modules: list[str]) -> str:
    """What was found; raises what the fork raises."""
    import torch

    for module in modules:
        check(module)
    seen = torch.cuda.device_count() if gpus else 0
    if seen < gpus:
        raise RuntimeError(f"its PyTorch {torch.__version__} sees {seen} of {gpus} GPUs")
    found = f"PyTorch {torch.__version__}, {seen} GPUs{attention()}"
    if not source:
        return found
    loader = importlib.import_module("nanochat.checkpoint_manager")
    model = loader.load_model(source, torch.device("cpu"), phase="eval")[0]
    count = sum(p.numel() for p in model.parameters())
    return f"{found}; loads the input, {count:,} parameters"


def attention() -> str:
    """Loads the attention kernel, which comes from the Hub: later, without a network, the fork would silently do without it."""
    name = "nanochat.flash_attention"
    if not importlib.util.find_spec("nanochat") or not importlib.util.find_spec(name):
        return ""
    there = getattr(importlib.import_module(name), "HAS_FA3", False)
    return ", with FlashAttention 3" if there else ", without FlashAttention 3"


def check(module: str) -> None:
    """ImportError unless a module, and what it imports in its first lines, is there. Runs none of its code."""
    found = importlib.util.find_spec(module)
    if found is None or not found.origin:
        raise ImportError(f"there is no module {module}")
    tree = ast.parse(Path(found.origin).read_bytes())
    for node in tree.body:  # not what stands below `try` or `if`: the script can do without
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            if importlib.util.find_spec(name.partition(".")[0]) is None:
                raise ImportError(f"{module} imports {name}, which is not installed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
