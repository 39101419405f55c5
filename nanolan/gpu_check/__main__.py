"""One part in a process of its own: python -m nanolan.gpu_check PART SETUP.json RESULT.json

Exit 0: its figures are in RESULT.json; 1: the last line says why not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from nanolan.errors import NanolanError
from nanolan.files import write_atomic
from nanolan.gpu_check.machine import read_machine
from nanolan.gpu_check.parts import PARTS, PartKind


def main(argv: list[str], parts: Mapping[str, PartKind] = PARTS) -> int:
    """Measure the part argv[0] with the Machine in argv[1]; write argv[2]."""
    name, setup, result = argv
    try:
        figures = parts[name].measure(read_machine(Path(setup)))
    except (NanolanError, OSError, ValueError) as e:
        what = str(e) if isinstance(e, NanolanError) else f"{type(e).__name__}: {e}"
        print(f"gpu-check: {what}", file=sys.stderr, flush=True)
        return 1
    write_atomic(Path(result), json.dumps(figures).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
