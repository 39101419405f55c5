"""Run cases on the fake device and print their figures as a line of JSON.

python -m tests.train.fake_cuda LIBRARY '[["step", {"phase": "mid", "depth": 20, "size": 8}], ...]'
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from tests.train.fake_cuda.guard import load

CASES = {"step": "steps", "peak": "memory", "decode": "decode"}  # function -> its module


def main() -> None:
    library, cases = sys.argv[1:]
    load(Path(library))
    found = []
    for case, arguments in json.loads(cases):
        module = importlib.import_module(f"tests.train.fake_cuda.{CASES[case]}")
        found.append(getattr(module, case)(**arguments))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
