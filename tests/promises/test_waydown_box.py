"""On the way to the deletion nothing stops the box program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanolan.checkpoint.manifest import newest_whole
from nanolan.settings.settings import ROOT
from tests.support.box_fixtures import TOKEN, Box
from tests.support.box_main_fixtures import LIFE_S, SFT, dear
from tests.support.trouble import Disk, small_disk
from tests.support.trouble import __file__ as trouble
from tests.support.waydown_fixtures import (
    box,  # noqa: F401  # a fixture
    module,  # noqa: F401  # an autouse fixture
)

pytestmark = pytest.mark.shows(
    "file", "*/lanbot-training.log", "the log as a trainer writes it is the input here"
)


@contextmanager
def on_small_disk(root: Path, recipe: dict[str, float], **how: Any) -> Iterator[tuple[Box, Disk]]:
    """A machine whose one disk has 40 MB."""
    with small_disk(root / "box", 40) as disk, Box(root, recipe=recipe, **how) as box:
        yield box, disk


STAGES = [
    "this is instance",
    pytest.param("sft step 2/5", marks=pytest.mark.slow),
    "sft step 4/5",
    pytest.param("done at step", marks=pytest.mark.slow),
    pytest.param("uploading chatsft", marks=pytest.mark.slow),
    pytest.param("phase sft: proven", marks=pytest.mark.slow),
    pytest.param("verdict:", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_is_full_from_some_stage_on_loses_nothing_whole_and_keeps_no_machine(
    tmp_path: Path, stage: str
) -> None:
    with on_small_disk(tmp_path, {"seconds": 2.0, "save_at": 3}) as (box, disk):
        box.unpack()
        if stage == "this is instance":
            box.trained()
        box.start()
        box.wait_for(stage)
        whole = newest_whole(box.work / "trainer/out/chatsft_checkpoints/d20")
        disk.fill()
        assert box.started[0].wait(60) == 0 and box.deleted, box.log()
        final = whole is not None and whole[1].final
        assert whole is None or box.holds(
            SFT if final else f"{box.plan.folder}/saved/sft", whole[1].step
        )
        receipt = box.receipt()
        if (
            stage == "this is instance" and final
        ):  # on a busy machine it is over before the disk is full
            assert receipt["verdict"] in ("succeeded", "failed")
        else:
            assert receipt["verdict"] == ("succeeded" if final else "failed")
        assert receipt["verdict"] == "succeeded" or receipt["reason"] == "disk_full"
        assert "verdict: " in box.uploaded_log(
            "success" if receipt["verdict"] == "succeeded" else "error"
        ), "from memory"


def test_a_log_that_takes_nothing_fails_no_run_and_is_told_from_memory(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "box/var/log", 1) as disk,
        Box(tmp_path, recipe={"seconds": 0.1}) as box,
    ):
        box.log_file.touch()
        disk.fill()
        box.unpack()
        assert box.start().wait(60) == 0 and box.deleted and box.holds(SFT, 5)
        log = box.uploaded_log("success")
        assert (
            "the disk did not take the rest" in log
            and "verdict: succeeded" in log
            and TOKEN not in log
        )


def test_a_read_only_disk_keeps_no_whole_checkpoint_from_the_hub_nor_the_machine(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "box/nanolan", 20) as disk, Box(tmp_path) as box:
        box.unpack()
        box.trained()
        disk.read_only()
        assert box.start().wait(60) == 0 and box.deleted and box.holds(SFT, 5), box.log()
        assert box.receipt()["verdict"] == "failed" and "is uploaded without a copy" in box.log()


def test_without_memory_for_another_process_a_whole_checkpoint_is_tried_until_the_money_is_gone_then_the_machine_goes(
    tmp_path: Path,
) -> None:
    with Box(tmp_path, age_s=LIFE_S - 4, life_s=10 * LIFE_S, **dear()) as box:
        box.unpack()
        box.trained()
        child = box.program(
            sys.executable,
            trouble,
            "no-fork",
            sys.executable,
            str(ROOT / "cloud/train.py"),
            str(box.state),
            str(box.work),
            cwd=ROOT,
        )
        assert child.wait(60) == 0 and box.deleted
        assert (
            "no process could be started" in box.log()
            and "NOT saved: sft step 5" in box.receipt()["message"]
        )


@pytest.mark.parametrize("how", ["no library", "no work folder", "no plan", "no Python of its own"])
def test_a_box_program_that_cannot_begin_leaves_its_machine_to_the_rescue_program(
    box: Box, how: str
) -> None:
    python = "/usr/bin/python3" if how == "no library" else sys.executable
    work = box.work if how != "no work folder" else box.work / "gone"
    if how == "no plan":
        (box.state / "plan.json").write_text(
            json.dumps(json.loads(box.plan.to_json()) | {"limit_cents": "many"})
        )
    train = str(ROOT / "cloud/train.py")
    words = (
        ["-I", train]
        if how != "no Python of its own"
        else [
            "-c",
            f"import runpy, sys; sys.executable = '/gone'; runpy.run_path({train!r}, run_name='__main__')",
        ]
    )
    work = work if how != "no Python of its own" else box.work / "gone"
    assert box.program(python, *words, str(box.state), str(work), cwd=ROOT).wait(60) == 0
    assert box.deleted and "the box program failed" in box.receipt()["message"]
