"""Makes checkpoints with manifests of what a fork and its keeper leave: states on the way, and the final checkpoint."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from nanolan.checkpoint.architecture import MODEL_FILE, meta_name, newest_step
from nanolan.checkpoint.manifest import save_whole
from nanolan.errors import BadAnswer
from nanolan.files import entries_of
from nanolan.trainers.fork_job import ForkJob

# Marks of the keeper
FINISHED = "finished"  # the script came to its own end
NOT_FINITE = "not-finite"  # a weight is not a number
MOST_STATES = 2  # on this disk
NO_LINKS = (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)


class Kept:
    """The weights that the keeper saves in `folder`; its steps count from `before` on."""

    def __init__(self, job: ForkJob, folder: Path, before: int) -> None:
        self._job, self._folder, self._before = job, folder, before
        self._told = 0  # the step whose failure was reported
        self.step = 0  # the newest one taken

    @property
    def finished(self) -> bool:
        return (self._folder / FINISHED).is_file()

    @property
    def lost(self) -> bool:
        return (self._folder / NOT_FINITE).is_file()

    def take(self) -> None:
        """Make a state of the newest weights, if they are new. They may disappear meanwhile: then newer ones come."""
        step, found = self._newest()
        if found is None or step <= self.step:
            return
        try:
            self._save(found, step)
            self.step = step
        except FileNotFoundError:
            return
        except (
            OSError,
            ValueError,
            TypeError,
        ) as e:  # a full disk, a meta that is none: training goes on
            if self._told != step:
                self._told = step
                print(f"warning: the weights of step {step} are not saved: {e}", flush=True)

    def _newest(self) -> tuple[int, tuple[str, str] | None]:
        """The step and the files of the newest whole weights."""
        try:
            found = newest_step([p.name for p in entries_of(self._folder, "*")], "", "")
        except (BadAnswer, OSError):  # the meta is written last
            return 0, None
        return (_step_of(found[0]) if found else 0), found

    def _save(self, found: tuple[str, str], step: int) -> None:
        model, meta = found
        at = self._before + step

        def write(target: Path) -> None:
            link(self._folder / model, target / renumbered(model, at))
            values = json.loads((self._folder / meta).read_bytes())
            (target / renumbered(meta, at)).write_text(json.dumps(values | {"step": at}))

        out = Path(self._job.out_dir)
        save_whole(
            out,
            at,
            write,
            run_id=self._job.run_id,
            phase=self._job.phase,
            final=False,
            extra={"keeps": "weights"},
        )
        remove_old(out)


def remove_old(out: Path) -> None:
    """Keep the newest states only."""
    folders = [p for p in entries_of(out, "step-*") if p.name[5:].isdigit()]
    for folder in sorted(folders, key=lambda p: int(p.name[5:]))[:-MOST_STATES]:
        shutil.rmtree(folder, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """A second name of a file; a copy where the file is a link, or the file system has no second names."""
    if not source.is_symlink():
        try:
            os.link(source, target)
            return
        except OSError as e:
            if e.errno not in NO_LINKS:
                raise
    shutil.copyfile(source, target)


def renumbered(name: str, step: int) -> str:
    """model_000007.pt -> model_000107.pt."""
    return re.sub(r"_\d{6,}(?=\.)", f"_{step:06d}", name)


def _step_of(model: str) -> int:
    found = MODEL_FILE.fullmatch(model)
    return int(found[1]) if found else 0


def save_final(job: ForkJob, base: Path, extra: dict[str, Any]) -> None:
    """Make the final checkpoint of what the fork wrote into its output folder; BadAnswer if it wrote none."""
    output = base / job.fork.phase.output_dir
    folders = [p for p in entries_of(output, "*") if p.is_dir()]
    models = [
        (int(m[1]), folder)
        for folder in folders
        for p in entries_of(folder, "model_*.pt")
        if (m := MODEL_FILE.fullmatch(p.name))
    ]
    if not models:
        raise BadAnswer(
            f"{job.fork.phase.module or 'the command'} ended well but left no model_SSSSSS.pt in "
            f"{job.fork.phase.output_dir}/"
        )
    step, folder = max(models, key=lambda found: (found[0], found[1].stat().st_mtime))
    model = next(p.name for p in entries_of(folder, "model_*.pt") if _step_of(p.name) == step)
    names = (model, meta_name(model))

    def write(target: Path) -> None:
        for name in names:
            link(folder / name, target / name)

    if not (folder / names[1]).is_file():
        raise BadAnswer(f"the fork left {model} without {names[1]}")
    save_whole(
        Path(job.out_dir), step, write, run_id=job.run_id, phase=job.phase, final=True, extra=extra
    )
