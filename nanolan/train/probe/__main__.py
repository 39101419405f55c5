"""One probe on all ranks; rank 0 writes what it measured.

torchrun --standalone --nproc-per-node N -m nanolan.train.probe PART SETUP.json RESULT.json

Exit 0: it is written; 1: it is not, and the last line says why.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from nanolan.errors import NanolanError
from nanolan.files import write_atomic
from nanolan.train.processes import join_world
from nanolan.train.stop import follow_parent, tell_stacks

PARTS = ("collective", "bandwidth", "attention", "decode", "rl_step", "memory")


def main(argv: list[str]) -> int:
    """Run the part argv[0] with the setup in argv[1]; rank 0 writes argv[2]."""
    if len(argv) != 3 or argv[0] not in PARTS:
        print(f"usage: python -m nanolan.train.probe {'|'.join(PARTS)} SETUP.json RESULT.json")
        return 1
    follow_parent()
    tell_stacks()
    try:
        setup = json.loads(Path(argv[1]).read_bytes())
        world = join_world(setup["device"])
        figures = importlib.import_module(f"nanolan.train.probe.{argv[0]}").measure(setup, world)
        if world.first:
            write_atomic(Path(argv[2]), json.dumps(figures).encode())
        world.close()
    except (NanolanError, OSError, ValueError, KeyError) as e:
        what = str(e) if isinstance(e, NanolanError) else f"{type(e).__name__}: {e}"
        print(f"nanolan.train: {what}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
