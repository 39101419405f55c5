"""Which trainer a command's settings mean, and whether it is rehearsed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanolan.launch.make_plan import Rehearsal
    from nanolan.settings.settings import Settings
    from nanolan.trainers.choose import Chosen


def trainer_of(s: Settings, rehearsal: Rehearsal | None) -> tuple[Settings, Chosen | None]:
    """The settings with the phases of their trainer, and a checkout that trains in place of nanolan."""
    from nanolan.plan import OWN_PYTHON
    from nanolan.settings.paths import typed as path_of
    from nanolan.trainers.choose import with_trainer

    if rehearsal is None:
        return with_trainer(s, path_of(""))
    installed = path_of(s.trainer) / ".venv/bin/python"  # by the checkout's owner
    python = str(installed) if installed.is_file() else OWN_PYTHON
    return with_trainer(s, path_of(""), rehearsed=rehearsal.fork_options, python=python)


def rehearsal_of(s: Settings) -> Rehearsal | None:
    """NANOLAN_REHEARSAL (set by rehearse.py and tests): JSON; loopback addresses only."""
    import json
    import os

    text = os.environ.get("NANOLAN_REHEARSAL")
    if not text:
        return None
    from nanolan.launch.make_plan import Rehearsal

    return Rehearsal(**json.loads(text))
