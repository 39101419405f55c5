"""Made-up inputs against the law of each reader and renderer (tests/fuzz/targets.py), until one breaks it or the time is over.

just fuzz                           a minute for each target
just fuzz minutes=10                ten minutes for each
just fuzz minutes=1 plan renderer   only these
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
import time
import traceback

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.targets import TARGETS

MEMORY = 6 << 30
ROUND = 500  # examples by one seed


def fuzz(name: str, minutes: float) -> tuple[int, str]:
    """(examples tried, the first that breaks the law, as Hypothesis reports it)."""
    target, tried = TARGETS[name], [0]
    end = time.monotonic() + 60 * minutes

    def law(value: object) -> None:
        tried[0] += 1
        target.law(value)

    while time.monotonic() < end:
        run = seed(random.getrandbits(32))(
            settings(
                max_examples=ROUND,
                deadline=None,
                database=None,
                print_blob=False,
                suppress_health_check=list(HealthCheck),
            )(given(target.given)(law))
        )
        try:
            run()
        except BaseException as e:  # a panic is no Exception
            if isinstance(e, (KeyboardInterrupt, SystemExit)):
                raise
            return tried[0], "".join(traceback.format_exception(e))[:8000]
    return tried[0], ""


def main(words: list[str]) -> int:
    """Each target in turn; exit code 1 if one broke its law."""
    if {"-h", "--help"} & set(words):
        print(f"{__doc__}\nTargets: {', '.join(TARGETS)}")
        return 0
    minutes = float(next((w.partition("=")[2] for w in words if w.startswith("minutes=")), 1))
    names = [w for w in words if "=" not in w] or list(TARGETS)
    if unknown := sorted(set(names) - set(TARGETS)):
        print(f"no target {unknown[0]}; known are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in names:
            tried, why = fuzz(name, minutes)
            broken += bool(why)
            print(
                f"{name:<12} {tried:>9,} examples in {minutes:g} minutes: {'nothing found' if not why else 'BROKEN'}\n{why}".rstrip(),
                flush=True,
            )
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
