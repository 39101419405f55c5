"""Imported first by every script: where its packages are missing, it says the one command and ends.

Older versions of Python read this file, too.
"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("nanolan", "click", "msgspec")  # any other is installed with these
ROOT = Path(__file__).absolute().parent.parent


def command(script: str, words: list[str]) -> str:
    """What to type instead; `just` alone, which lists the commands, if no recipe runs the script."""
    just = "./just" if Path.cwd() == ROOT else str(ROOT / "just")
    line = r"^([a-z-]+) .*\n\s+@\{\{python\}\} scripts/" + script + r"\.py \"\$@\""
    found = re.search(line, (ROOT / "justfile").read_text(encoding="utf-8"), re.M)
    same = " and the same words" if found and words else ""
    return f"{just} {found.group(1)}{same}" if found else just


def check() -> None:
    """Exit code 2 and one line unless the packages are there."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"error: {missing[0]} is not installed for {sys.executable}, which runs this script; nothing was done. Type: "
            + command(Path(sys.argv[0]).stem, sys.argv[1:]),
            file=sys.stderr,
        )
        sys.exit(2)


check()
