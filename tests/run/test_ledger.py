"""The ledger: one small private file per run."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from nanolan.errors import BadAnswer, LedgerProblem, UsageProblem
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.record import PhaseReport, Receipt
from nanolan.settings.paths import nanolan_home
from nanolan.settings.settings import ROOT
from tests.support.core_fixtures import PLAN, a_plan


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home")


def put(ledger: Ledger, run_id: str, minute: int = 0, **more: object) -> Entry:
    fields = {k: more.pop(k) for k in ("instance_id", "gone", "note") if k in more}
    entry = Entry(
        a_plan(run_id=run_id, created_at=f"2026-11-23T12:{minute:02}:00Z", **more), **fields
    )
    ledger.put(entry)
    return entry


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_entry_reads_back_and_is_replaced_whole(ledger: Ledger) -> None:
    first = put(ledger, "ab12cd34")
    assert ledger.entries() == [first]
    later = put(ledger, "ab12cd34", instance_id="x", gone=True, note="stopped")
    assert ledger.entries() == [later] and sorted(p.name for p in ledger.runs.iterdir()) == [
        "ab12cd34.json"
    ]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_entries_are_private_with_any_umask(ledger: Ledger, umask: int) -> None:
    before = os.umask(umask)
    try:
        put(ledger, "ab12cd34")
        ledger.owner  # noqa: B018
    finally:
        os.umask(before)
    assert (
        mode(ledger.runs / "ab12cd34.json") == 0o600 == mode(ledger.home / "owner")
        and mode(ledger.runs) == 0o700
    )


def test_the_newest_run_comes_first(ledger: Ledger) -> None:
    for minute, run_id in ((5, "aaaaaaaa"), (9, "bbbbbbbb"), (1, "cccccccc")):
        put(ledger, run_id, minute)
    assert [e.plan.run_id for e in ledger.entries()] == ["bbbbbbbb", "aaaaaaaa", "cccccccc"]
    assert ledger.find(None).plan.run_id == ledger.find("").plan.run_id == "bbbbbbbb"


def test_an_empty_ledger_says_what_to_type(ledger: Ledger) -> None:
    assert ledger.entries() == []
    with pytest.raises(UsageProblem, match="just launch phase=sft"):
        ledger.find(None)


@pytest.mark.parametrize(
    "text, found",
    [
        ("ab12cd34", "ab12cd34"),
        ("inst-1", "ab12cd34"),
        ("ab12cd", "ab12cd34"),
        ("ab12ce", "ab12ce99"),
        ("f", "f0000001"),
        ("exp", "f0000001"),
    ],
)
def test_a_run_is_found_by_id_instance_prefix_or_name(
    ledger: Ledger, text: str, found: str
) -> None:
    put(ledger, "ab12cd34", 1, instance_id="inst-1")
    put(ledger, "ab12ce99", 2)
    put(ledger, "f0000001", 3, run_name="exp")
    assert ledger.find(text).plan.run_id == found


def test_an_ambiguous_prefix_or_name_lists_the_runs(ledger: Ledger) -> None:
    put(ledger, "ab12cd34", 1)
    put(ledger, "ab12ce99", 2)
    for text in ("ab12", "a", PLAN.run_name):  # two that may be running: which one to stop?
        with pytest.raises(UsageProblem, match="fits several runs: ab12ce99, ab12cd34"):
            ledger.find(text)


def test_a_name_means_the_run_that_is_not_over_and_else_the_newest(ledger: Ledger) -> None:
    put(ledger, "aaaaaaaa", 1)
    put(ledger, "bbbbbbbb", 2, gone=True)
    put(ledger, "cccccccc", 3, gone=True)
    assert ledger.find(PLAN.run_name).plan.run_id == "aaaaaaaa"
    put(ledger, "aaaaaaaa", 1, gone=True)
    assert ledger.find(PLAN.run_name).plan.run_id == "cccccccc"


def test_an_exact_id_wins_over_a_name_and_a_name_over_a_prefix(ledger: Ledger) -> None:
    put(ledger, "aaaaaaaa", 1)
    put(ledger, "bbbbbbbb", 2, run_name="aaaaaaaa")
    put(ledger, "cccccccc", 3, run_name="bbb")
    assert (
        ledger.find("aaaaaaaa").plan.run_id == "aaaaaaaa"
        and ledger.find("bbb").plan.run_id == "cccccccc"
    )


@pytest.mark.parametrize("text", ["zz", "../../etc/passwd", "*", "a\x00b", "AB12CD34", "x" * 300])
def test_an_unknown_run_is_a_plain_error(ledger: Ledger, text: str) -> None:
    put(ledger, "ab12cd34")
    with pytest.raises(UsageProblem, match="just status") as e:
        ledger.find(text)
    assert len(str(e.value)) < 200


def test_an_entry_keeps_its_receipt_and_an_old_one_without_it_still_loads(
    ledger: Ledger,
) -> None:
    entry = structs.replace(
        put(ledger, "ab12cd34"),
        receipt=Receipt(
            "ab12cd34",
            "succeeded",
            stages={"boot": 9},
            phases={"sft": PhaseReport("proven", tokens=5)},
        ),
    )
    ledger.put(entry)
    assert ledger.entries() == [entry]
    path = ledger.runs / "ab12cd34.json"
    old = json.loads(path.read_text())
    del old["receipt"], old["earlier"], old["plan"]["parameters"], old["plan"]["predicted"]
    path.write_text(json.dumps(old))
    assert ledger.entries() == [structs.replace(entry, receipt=None)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        '{"plan": {}}',
        '{"instance_id": "x"}',
        '{"version": 9, "plan": 5}',
    ],
)
def test_an_unreadable_file_hides_no_other_run_and_is_named(ledger: Ledger, text: str) -> None:
    good = put(ledger, "ab12cd34")
    bad = ledger.runs / "ee12cd34.json"
    bad.write_text(text)
    os.utime(bad, (1, 1))
    assert ledger.entries() == [good] and ledger.find(None) == ledger.find("ab12") == good
    with pytest.raises(
        BadAnswer,
        match=r"ee12cd34\.json cannot be read, so run ee12cd34 is not shown; its instance.*just orphans",
    ):
        ledger.find("ee12")
    assert "ee12cd34.json cannot be read" in ledger.gap()


def test_no_older_run_replaces_a_newest_one_that_may_be_unreadable(
    ledger: Ledger,
) -> None:
    put(ledger, "ab12cd34")
    (ledger.runs / "ee12cd34.json").write_text("")
    with pytest.raises(BadAnswer, match="If you mean another run, give its id"):
        ledger.find(None)


def test_an_unreadable_file_is_kept_beside_its_replacement(
    ledger: Ledger,
) -> None:
    put(ledger, "ab12cd34")
    (ledger.runs / "ab12cd34.json").write_text("of a newer nanolan")
    entry = put(ledger, "ab12cd34")
    assert (
        ledger.entries() == [entry]
        and (ledger.runs / "ab12cd34.unreadable").read_text() == "of a newer nanolan"
    )


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        os.mkdir,
        lambda path: path.symlink_to("/nowhere"),
        lambda path: path.symlink_to(path),
    ],
    ids=["pipe", "folder", "dead link", "endless link"],
)
def test_pipes_and_folders_among_the_runs_neither_block_nor_hide_others(
    ledger: Ledger, make: Callable[[Path], object]
) -> None:
    entry = put(ledger, "ab12cd34")
    make(ledger.runs / "ee12cd34.json")
    assert (
        ledger.entries() == [entry]
        and ledger.find("ab12") == entry
        and "ee12cd34.json cannot be read" in ledger.gap()
    )


def test_a_write_that_was_cut_off_leaves_the_old_entry(ledger: Ledger) -> None:
    entry = put(ledger, "ab12cd34")
    (ledger.runs / "ab12cd34.1234.tmp").write_text('{"plan"')
    assert ledger.entries() == [entry]


def test_the_owner_id_is_created_once(ledger: Ledger) -> None:
    owner = ledger.owner
    assert len(owner) == 8 and Ledger(ledger.home).owner == owner
    (ledger.home / "owner").write_text("not an owner")
    with pytest.raises(BadAnswer, match="8 hex digits"):
        ledger.owner  # noqa: B018


@pytest.mark.parametrize("left", [None, "", "\n", "cut", "\x00\x00"])
def test_a_lost_owner_id_is_read_from_the_runs(ledger: Ledger, left: str | None) -> None:
    ledger.put(Entry(structs.replace(PLAN, owner="0badcafe")))
    if left is not None:
        (ledger.home / "owner").write_text(left)
    assert ledger.owner == "0badcafe" == (ledger.home / "owner").read_text()


def test_an_empty_owner_file_without_runs_gets_a_new_id(ledger: Ledger) -> None:
    ledger.home.mkdir(parents=True, exist_ok=True)
    (ledger.home / "owner").write_text("")
    assert len(ledger.owner) == 8 == len(Ledger(ledger.home).owner)


def test_the_home_is_nanolan_home_or_in_the_users(tmp_path: Path) -> None:
    assert nanolan_home({"NANOLAN_HOME": str(tmp_path)}) == tmp_path
    assert nanolan_home({}) == nanolan_home({"NANOLAN_HOME": ""}) == Path.home() / ".nanolan"


@pytest.mark.parametrize("named", ["runs", "./x", "../x", "."])
def test_a_relative_home_is_refused(named: str) -> None:
    with pytest.raises(UsageProblem, match="absolute path"):
        nanolan_home({"NANOLAN_HOME": named})


def test_the_users_folder_is_expanded_in_the_home() -> None:
    assert nanolan_home({"NANOLAN_HOME": "~/ledger"}) == Path.home() / "ledger"


def test_a_run_is_in_the_ledger_or_not(ledger: Ledger) -> None:
    assert not ledger.has("ab12cd34")
    put(ledger, "ab12cd34")
    assert ledger.has("ab12cd34") and not ledger.has("ab12cd3")


def test_fields_missing_in_an_old_entry_are_unknown(ledger: Ledger) -> None:
    entry = put(ledger, "ab12cd34")
    path = ledger.runs / "ab12cd34.json"
    old = {
        k: v
        for k, v in json.loads(path.read_text()).items()
        if k not in ("spent_cents", "rebuilt", "earlier")
    }
    path.write_text(json.dumps(old))
    assert ledger.find("ab12cd34") == entry and entry.spent_cents is None


def test_a_launch_lock_is_held_until_its_process_ends(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path)
    assert not ledger.is_launching("ab12cd34")
    with ledger.launching("ab12cd34"):
        assert ledger.is_launching("ab12cd34") and ledger.entries() == []
    assert not ledger.is_launching("ab12cd34")
    code = (
        "import sys; from pathlib import Path; from nanolan.run.ledger import Ledger\n"
        "with Ledger(Path(sys.argv[1])).launching('ab12cd34'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as child:
        assert child.stdout and child.stdout.readline() == b"held\n"
        assert ledger.is_launching("ab12cd34")
        child.kill()
    assert not ledger.is_launching("ab12cd34"), "killed: the lock is gone, its file is not"


def test_an_unreadable_file_is_named_and_does_not_hide_the_others(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.put(Entry(PLAN))
    (tmp_path / "runs/bad.json").write_text("{")
    entries, broken = ledger.readable()
    assert [e.plan.run_id for e in entries] == [PLAN.run_id] and broken == [
        tmp_path / "runs/bad.json"
    ]
    assert Ledger(tmp_path / "nowhere").readable() == ([], [])


def test_a_full_ledger_is_one_line_and_does_not_stop_the_caller(
    ledger: Ledger,
) -> None:
    entry, said = Entry(PLAN), list[str]()
    (ledger.runs / f"{PLAN.run_id}.json").mkdir(parents=True)  # the last step of a write fails
    with pytest.raises(
        LedgerProblem,
        match=r"ab12cd34\.json cannot be written \(Is a directory\)\. Make room there",
    ):
        ledger.put(entry)
    ledger.note(entry, said.append)
    assert said[0].startswith("NOT RECORDED: ") and [p.name for p in ledger.runs.iterdir()] == [
        "ab12cd34.json"
    ], "and no rest is left"
    (ledger.home / "file").touch()
    with pytest.raises(LedgerProblem), Ledger(ledger.home / "file").launching(PLAN.run_id):
        pass


def test_a_folder_that_cannot_be_written_is_found_without_writing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerProblem, match="another folder: NANOLAN_HOME"):
        Ledger(tmp_path / "file/home").check_writable()
    Ledger(tmp_path / "new/home").check_writable()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
