"""The trainer's confinement: a user of its own that can do its work and nothing more; where that cannot be, the reason is told."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nanolan.box.sandbox import UID, chown_tree, confine, trainer_folder
from tests.support.sandbox_fixtures import (
    as_root,
    python,  # noqa: F401  # a fixture
    work,  # noqa: F401  # a fixture
)


@as_root
def test_the_trainers_user_reads_its_inputs_writes_its_desk_and_nothing_else(
    work: Path, python: str
) -> None:
    old = trainer_folder(work) / "out/step-000001"
    old.mkdir(parents=True)  # of an earlier life, or fetched: root's
    account, why = confine(work, python=python)
    assert account and account.uid == UID, why

    def may(code: str) -> bool:
        return (
            subprocess.run(
                [python, "-c", f"import os, shutil\n{code}"],
                env=account.environment,
                stderr=subprocess.DEVNULL,
                **account.popen,
            ).returncode
            == 0
        )

    assert may(f"open('{work}/model/model_000001.pt').read()")
    assert may(
        f"open('{trainer_folder(work)}/metrics.jsonl', 'w').write('x'); open('{old}/model', 'w').close()"
    )
    assert may(f"os.rename('{old}', '{old}-b'); shutil.rmtree('{old}-b')")
    assert may("open(os.path.expanduser('~/cache'), 'w').close()")
    for wish in (
        f"open('{work.parent}/state/secrets.json').read()",
        f"os.listdir('{work.parent}/state')",
        f"open('{work}/x', 'w')",
        f"open('{work}/model/model_000001.pt', 'a')",
        f"os.rename('{work}/model', '{work}/m')",
        f"os.kill({os.getpid()}, 0)",
        f"open('{work.parent}/code/nanolan/__init__.py', 'w')",
        f"open('/proc/{os.getpid()}/environ').read()",
        f"open('/proc/{os.getpid()}/mem', 'rb').seek(1)",
        f"open('{work}/job.json', 'w')",
        "os.setuid(0)",
    ):
        assert not may(wish), wish
    assert oct((trainer_folder(work) / "metrics.jsonl").stat().st_mode & 0o777) == "0o600"


@as_root
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda work: (work / "model/model_000001.pt").chmod(0o600), "Permission denied"),
        (lambda work: (work / "data").chmod(0o700), "Permission denied"),
        (lambda work: shutil.rmtree(work / "data"), "No such file"),
        (lambda work: work.chmod(0o700), "Permission denied"),
        (
            lambda work: (
                (work.parent / "code/nanolan/__init__.py").unlink()
                or (work.parent / "code/nanolan").rmdir()
            ),
            "No module named 'nanolan'",
        ),
    ],
    ids=[
        "a file that is root's alone",
        "a folder that is root's alone",
        "no inputs",
        "a closed work folder",
        "no code",
    ],
)
def test_what_the_trainer_could_not_do_is_the_reason_to_go_on_without(
    work: Path, python: str, spoil: object, why: str
) -> None:
    spoil(work)  # type: ignore[operator]
    account, told = confine(work, python=python)
    assert account is None and why in told and "\n" not in told


@as_root
def test_a_python_that_only_root_may_run_is_the_reason_to_go_on_without(work: Path) -> None:
    closed = work.parent / "state/python3"
    closed.symlink_to("/usr/bin/env")
    assert confine(work, python=str(closed)) == (
        None,
        f"PermissionError: [Errno 13] Permission denied: '{closed}'",
    )


@as_root
def test_a_gpu_whose_node_the_trainer_may_not_use_is_a_reason_and_its_group_is_given(
    work: Path, python: str
) -> None:
    nodes = work.parent / "dev"
    nodes.mkdir()
    try:
        os.mknod(nodes / "nvidia0", 0o020660, os.makedev(1, 3))
    except OSError as e:
        pytest.skip(f"no device nodes can be made here: {e.strerror}")
    assert confine(work, python=python, dev=nodes) == (None, f"{nodes}/nvidia0 cannot be written")
    os.chown(nodes / "nvidia0", 0, 4711)
    (nodes / "nvidia0").chmod(0o660)
    account, why = confine(work, python=python, dev=nodes)
    if account is None and "nosuid" in why:
        pytest.skip(why)
    assert account and account.groups == (4711,), why


def test_who_is_not_root_goes_on_as_himself(work: Path, python: str) -> None:
    if os.geteuid() != 0:
        assert confine(work) == (None, "the box program is not root")
        return
    os.chown(work, UID, UID)
    code = (
        f"import sys; sys.path.insert(0, '{Path(__file__).resolve().parents[2]}'); from nanolan.box.sandbox import confine; "
        f"from pathlib import Path; print(confine(Path('{work}')))"
    )
    done = subprocess.run(
        [python, "-c", code], user=UID, group=UID, extra_groups=[], capture_output=True, text=True
    )
    if "No module named" in done.stderr:
        pytest.skip("the checkout lies where another user may not look")
    assert done.stdout == "(None, 'the box program is not root')\n", done.stderr


@as_root
def test_handing_over_follows_no_link_and_gives_no_second_name_away(work: Path) -> None:
    mine, folder = work.parent / "state/secrets.json", trainer_folder(work) / "out"
    folder.mkdir(parents=True)
    (folder / "model").touch()
    (folder / "link").symlink_to(mine)
    (folder / "folder").symlink_to(mine.parent)
    os.link(work / "model/model_000001.pt", folder / "second-name")
    chown_tree(trainer_folder(work), UID)
    assert {p.stat().st_uid for p in (trainer_folder(work), folder, folder / "model")} == {UID}
    assert {p.stat().st_uid for p in (mine, mine.parent, work / "model/model_000001.pt")} == {0}
