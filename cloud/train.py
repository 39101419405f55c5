"""The box's main: `python cloud/train.py STATE WORK`, started by boot.sh as its last act.

What the box program itself cannot handle (a plan it cannot read, no sight of its own instance) goes to the
rescue program: log uploaded, machine deleted. Whatever is printed here goes through a veil (nanolan/veil.py).
"""
from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from nanolan.secret import short
from nanolan.veil import veiled

if __name__ == "__main__":
    sys.stdout = sys.stderr = veiled(sys.stdout, note=True)
    from nanolan.box import main  # now: what it imports keeps the stderr that it finds
    state, work = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        main(state, work)
    except Exception as e:
        traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        why = short(f"the box program failed: {type(e).__name__}: {e}").replace("\0", "?")   # arguments are for everybody to see
        os.execv(sys.executable, [sys.executable, str(state / "rescue.py"), "fail", why])  # noqa: S606
