"""The box's main: `python cloud/train.py STATE WORK`, started by boot.sh as its last act.

What the box program itself cannot handle (a plan it cannot read, no sight of its own instance) goes to the
rescue program: log uploaded, machine deleted. Secrets in whatever is printed here are masked (nanolan/redact.py).
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path


def main(state: Path, work: Path) -> None:
    """Run the box program; what ends it in any other way than its own end is for the rescue program."""
    why = "the box program failed"
    try:
        from nanolan.files import Log
        from nanolan.redact import redact_stream
        from nanolan.settings.library_variables import take_out

        sys.stdout = sys.stderr = redact_stream(Log(1), note=True)
        for text in take_out(
            os.environ
        ):  # an image may set them; before the Hub's client is imported
            print(f"not used: {text}")
        from nanolan.box.main import (
            main as box,  # now: what it imports keeps the stderr that it finds
        )

        code = box(state, work)
    except BaseException as e:  # also what no program raises: a panic of a library, an exit
        try:
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
            from nanolan.redact import short

            why = short(f"{why}: {type(e).__name__}: {e}").replace(
                "\0", "?"
            )  # arguments are for everybody to see
        finally:
            rescue(state, why)
    else:
        sys.exit(code)


def rescue(state: Path, why: str) -> None:
    """Become the rescue program, in this Python or the system's."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            os.execv(python, [python, str(state / "rescue.py"), "fail", why])  # noqa: S606
        except OSError:  # its disk may be gone
            continue
    sys.exit(1)  # for systemd to begin anew


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
