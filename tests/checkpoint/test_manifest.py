"""Only complete checkpoints count: partial, damaged or missing ones are skipped."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanolan.checkpoint.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    hash_bytes,
    hash_file,
    newest_whole,
    parse_manifest,
    read_whole,
    save_whole,
    whole_steps,
)
from nanolan.errors import BadAnswer
from nanolan.settings.settings import ROOT

SAVER = """
import sys
from pathlib import Path
from nanolan.checkpoint.manifest import save_whole
out, first = Path(sys.argv[1]), int(sys.argv[2])
for step in range(first, first + 500):
    def write(folder):
        for part in range(4):
            (folder / f"model_{step:06d}.{part}").write_bytes(bytes([step % 251]) * 50_000)
    for again in range(2):              # the same step twice: the second replaces the first
        save_whole(out, step, write, run_id="r", phase="sft")
        print(step, flush=True)
"""


def save(out: Path, step: int, content: bytes = b"weights", **about: object) -> Path:
    def write(folder: Path) -> None:
        (folder / f"model_{step:06d}.pt").write_bytes(content)
        (folder / f"meta_{step:06d}.json").write_text('{"step": 1}')

    return save_whole(out, step, write, **({"run_id": "ab12cd34", "phase": "sft"} | about))  # type: ignore[arg-type]


def test_a_saved_step_is_read_back_complete_with_its_extra(tmp_path: Path) -> None:
    folder = save(tmp_path, 90, final=False, extra={"loss_end": 1.5})
    assert folder == tmp_path / "step-000090"
    manifest = read_whole(folder)
    assert (manifest.run_id, manifest.phase, manifest.step, manifest.final, manifest.extra) == (
        "ab12cd34",
        "sft",
        90,
        False,
        {"loss_end": 1.5},
    )
    assert [f.path for f in manifest.files] == ["meta_000090.json", "model_000090.pt"]
    assert manifest.size == len(b"weights") + len('{"step": 1}')
    assert parse_manifest(manifest.to_json()) == manifest


def test_a_file_is_hashed_as_the_hub_does_both_ways(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "a.pt").write_bytes(data)
    want = FileEntry(
        "a.pt",
        len(data),
        hashlib.sha256(data).hexdigest(),
        hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
    )
    assert hash_file(tmp_path / "a.pt") == want == hash_bytes("a.pt", data)


def test_kill_9_during_a_save_leaves_no_partial_checkpoint_and_loses_no_step(
    tmp_path: Path,
) -> None:
    dice, first = random.Random(7), 1
    for kill in range(25):
        out = tmp_path / str(kill % 5)  # each folder is taken up again after its kill
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(out), str(first)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert saver.stdout
        saver.stdout.readline()
        time.sleep(dice.random() * 0.06)
        saver.send_signal(signal.SIGKILL)
        said = [first, *map(int, saver.stdout.read().split())]
        saver.wait()
        saver.stdout.close()
        found = list(whole_steps(out))
        steps = {m.step for _, m in found}
        assert steps >= set(said[:-1]) - {said[-1]}, (
            "all but the one that may have been in the middle of its replacement"
        )
        for folder, manifest in found:
            assert {p.name for p in folder.iterdir()} == {
                MANIFEST,
                *(f.path for f in manifest.files),
            }
        first += 500
    assert len(list(tmp_path.glob("*/.saving-*"))) <= 2 * 5, (
        "what a killed save left is removed by the next one"
    )


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda f: flip(f / "model_000002.pt"), id="a flipped bit"),
        pytest.param(lambda f: (f / "model_000002.pt").write_bytes(b"weight"), id="cut off"),
        pytest.param(lambda f: (f / "model_000002.pt").write_bytes(b""), id="empty"),
        pytest.param(lambda f: (f / "meta_000002.json").unlink(), id="a file missing"),
        pytest.param(lambda f: (f / MANIFEST).unlink(), id="no manifest"),
        pytest.param(lambda f: (f / MANIFEST).write_text("{"), id="half a manifest"),
        pytest.param(
            lambda f: ((f / "model_000002.pt").unlink(), (f / "model_000002.pt").mkdir()),
            id="a folder in its place",
        ),
    ],
)
def test_a_damaged_step_is_skipped_for_the_one_before(tmp_path: Path, damage: object) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    damage(newest)  # type: ignore[operator]
    with pytest.raises(BadAnswer):
        read_whole(newest)
    found = newest_whole(tmp_path)
    assert found and found[1].step == 1


def test_the_newest_step_of_a_phase_is_found_final_or_not(tmp_path: Path) -> None:
    for step, phase, final in (
        (5, "mid", True),
        (10, "sft", True),
        (15, "sft", False),
        (120, "rl", True),
    ):
        save(tmp_path, step, phase=phase, final=final)

    def step_of(*args: object, **kwargs: object) -> int | None:
        found = newest_whole(tmp_path, *args, **kwargs)  # type: ignore[arg-type]
        return found[1].step if found else None

    assert (step_of(), step_of("sft"), step_of("sft", final=True), step_of("mid", final=False)) == (
        120,
        15,
        10,
        None,
    )
    assert newest_whole(tmp_path / "nothing here") is None
    save(tmp_path, 999_999, phase="rl"), save(tmp_path, 1_000_000, phase="rl")
    assert step_of() == 1_000_000, "by number, not as text"


def test_a_save_that_fails_leaves_the_earlier_step_and_nothing_else(tmp_path: Path) -> None:
    save(tmp_path, 3, b"first")

    def full(folder: Path) -> None:
        (folder / "model_000003.pt").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        save_whole(tmp_path, 3, full, run_id="r", phase="sft")
    assert [p.name for p in tmp_path.iterdir()] == ["step-000003"]
    assert (tmp_path / "step-000003/model_000003.pt").read_bytes() == b"first"


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 3, b"first")
    save(tmp_path, 3, b"second")
    assert [p.name for p in tmp_path.iterdir()] == ["step-000003"]
    assert (
        read_whole(tmp_path / "step-000003")
        and (tmp_path / "step-000003/model_000003.pt").read_bytes() == b"second"
    )


def manifest_of(path: str) -> str:
    return Manifest("r", "sft", 1, (FileEntry(path, 1, "0" * 64, "0" * 40),)).to_json()


@pytest.mark.parametrize(
    "name",
    [
        "../model.pt",
        "a/../../b",
        "/etc/passwd",
        "a/b",
        ".hidden",
        "..",
        ".",
        "",
        "C:\\x",
        "a\\b",
        "-rf",
        "a\nb",
        "a\0b",
        "model.pt\n",
        "x" * 201,
        "modèle.pt",
        "a b",
    ],
)
def test_a_manifest_with_a_hostile_file_name_is_refused(name: str) -> None:
    with pytest.raises(BadAnswer, match="not a plain file name"):
        parse_manifest(manifest_of(name))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": None},
        {"files": []},
        {"files": None},
        {"files": [1]},
        {"files": [{"path": "a"}]},
        {"files": "abc"},
        {"step": "x"},
        {"step": float("inf")},
        {"step": None},
        {"extra": 5},
    ],
)
def test_an_invalid_manifest_is_a_bad_answer_that_names_the_file(change: dict[str, object]) -> None:
    whole = json.loads(manifest_of("model.pt"))
    with pytest.raises(BadAnswer, match="over/there"):
        parse_manifest(json.dumps(whole | change), "over/there")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", "{}", "<html>", '{"version": 1}', b"\xff\xfe", "[" * 100_000]
)
def test_no_text_makes_the_reader_crash(text: str | bytes) -> None:
    with pytest.raises(BadAnswer):
        parse_manifest(text)
