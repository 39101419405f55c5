"""What of a foreign checkout on this laptop is sent: its files as they are, and never a secret or what lies outside of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nanolan.code.bundle import make_bundle
from nanolan.errors import NanolanError, PreflightFailed
from nanolan.trainers.checkout import Copy, copy_of
from tests.support.checkouts import TOKEN, add_submodule, commit, head, start, write
from tests.support.core_fixtures import git

PLAIN = {"scripts/chat_sft.py": "x = 1\n", ".gitignore": "*.log\n", "README.md": "r\n"}


def copied(root: Path, value: str = "") -> tuple[Copy, dict[str, bytes]]:
    """The copy and the files of the bundle that is made of it."""
    with copy_of(value or str(root), root) as copy:
        bundle, out = copy.root.parent / "x.bundle", copy.root.parent / "out"
        make_bundle(copy.root, bundle, "fork")
        out.mkdir()
        git(out, "init", "--quiet")
        git(out, "fetch", "--quiet", str(bundle), "refs/nanolan/fork/nanolan")
        git(out, "checkout", "--quiet", "FETCH_HEAD")
        names = git(out, "ls-files", "-z").split("\0")[:-1]
        return copy, {n: (out / n).read_bytes() for n in names if (out / n).is_file()}


def refused(root: Path, value: str = "", kind: type[NanolanError] = PreflightFailed) -> str:
    with pytest.raises(kind) as e:
        copied(root, value)
    assert "nanolan-fork-" not in str(e.value), "the name of a temporary folder"
    return str(e.value)


# ---- a folder
def test_tracked_files_are_sent_with_their_local_changes(tmp_path: Path) -> None:
    root = start(tmp_path / "fork", PLAIN)
    copy, sent = copied(root)
    assert sent.keys() == PLAIN.keys()
    assert (copy.source, copy.commit, copy.dirty, copy.left) == ("fork", head(root), False, {})
    write(root, {"scripts/chat_sft.py": "x = 2\n"})
    (root / "README.md").unlink()
    copy, sent = copied(root)
    assert copy.dirty and sent == {"scripts/chat_sft.py": b"x = 2\n", ".gitignore": b"*.log\n"}
    git(root, "add", "--all")  # staged is sent alike
    assert copied(root)[1] == sent


NEW = {  # a file that git does not track -> whether it is sent, or why not
    "nanochat/mine.py": "sent",
    "scripts/deep/er/mine.py": "sent",
    "tasks/mine.jsonl": "sent",
    "pyproject.toml": "sent",
    "uv.lock": "sent",
    ".python-version": "sent",
    "notes.txt": "git does not track it",
    "dev/mine.py": "git does not track it",
    "scripts.py": "git does not track it",
    "other/uv.lock": "git does not track it",
    "scripts/.env": "the name of a secret file",
    "scripts/.env.local": "the name of a secret file",
    "nanochat/id_ed25519": "the name of a secret file",
    "scripts/.netrc": "the name of a secret file",
    "nanochat/__pycache__/a.pyc": "the name of a secret file",
    ".env": "the name of a secret file",
    "scripts/x.log": "",
    "repo/.git/HEAD": "",  # of another repository: see below
}


def test_new_files_are_sent_from_the_folders_of_code_and_others_named_as_left_out(
    tmp_path: Path,
) -> None:
    root = start(tmp_path / "fork", PLAIN)
    write(root, dict.fromkeys(NEW, "new\n"))
    copy, sent = copied(root)
    expected = {n for n, how in NEW.items() if how == "sent"}
    assert set(copy.new) == expected and sent.keys() == PLAIN.keys() | expected and copy.dirty
    for name, why in NEW.items():
        if why not in ("", "sent"):
            assert copy.left[name].startswith(why)
    assert "scripts/x.log" not in copy.left, "ignored files are not even named"


def test_a_tracked_secret_file_is_left_out_by_its_name(tmp_path: Path) -> None:
    root = start(tmp_path / "fork", PLAIN | {".env": "A=b\n", "scripts/token.txt": "t\n"})
    copy, sent = copied(root)
    assert sent.keys() == PLAIN.keys() and copy.left.keys() == {".env", "scripts/token.txt"}


@pytest.mark.parametrize("place", ["scripts/chat_sft.py", "tasks/new.py", "README.md"])
def test_a_key_in_a_file_is_refused_by_file_and_line_and_never_printed(
    tmp_path: Path, place: str
) -> None:
    root = start(tmp_path / "fork", PLAIN)
    write(root, {place: f"a\nkey = '{TOKEN}'\n"})
    said = refused(root)
    assert f"{place}, line 2" in said and "nothing was rented" in said and TOKEN not in said


ODD = (
    "scripts/with space.py",
    "scripts/new\nline.py",
    "scripts/tab\t.py",
    'scripts/"quoted".py',
    "scripts/back\\slash.py",
    "scripts/grüße-日本-🙂.py",
    "-dash.py",
    "--exec=touch evil",
    ":(glob)*",
    "scripts/*.py",
    "HEAD",
)


def test_file_names_of_every_kind_arrive(tmp_path: Path) -> None:
    root = start(tmp_path / "fork", PLAIN | dict.fromkeys(ODD, "odd\n"))
    write(root, {f"tasks/new-{Path(n).name}": "new\n" for n in ODD})
    copy, sent = copied(root)
    assert sent.keys() >= set(ODD) and len(copy.new) == len(ODD) and not copy.left


def test_the_executable_bit_and_links_inside_arrive(tmp_path: Path) -> None:
    root = start(tmp_path / "fork", PLAIN)
    write(root, {"scripts/run.sh": "#!/bin/sh\n", "tasks/new.sh": "#!/bin/sh\n"})
    (root / "scripts/run.sh").chmod(0o755)
    (root / "tasks/new.sh").chmod(0o755)
    (root / "scripts/link.sh").symlink_to("run.sh")
    commit(root)
    with copy_of(".", root) as copy:
        modes = git(copy.root, "ls-files", "-s").splitlines()
    assert {m.split("\t")[1]: m[:6] for m in modes} == {
        ".gitignore": "100644",
        "README.md": "100644",
        "scripts/chat_sft.py": "100644",
        "scripts/run.sh": "100755",
        "tasks/new.sh": "100755",
        "scripts/link.sh": "120000",
    }


@pytest.mark.parametrize("goal", ["/etc/hostname", "../outside", "../../etc/passwd"])
@pytest.mark.parametrize("tracked", [True, False])
def test_a_link_out_of_the_checkout_is_refused(tmp_path: Path, goal: str, tracked: bool) -> None:
    root = start(tmp_path / "fork", PLAIN)
    write(tmp_path, {"outside": "private\n"})
    (root / "scripts/link").symlink_to(goal if goal[0] == "/" else f"../{goal}")
    if tracked:
        commit(root)
    assert "scripts/link is a link out of the checkout" in refused(root)


def test_a_tracked_folder_that_became_a_link_out_of_the_checkout_is_refused(tmp_path: Path) -> None:
    root = start(tmp_path / "fork", PLAIN)
    (root / "scripts").rename(tmp_path / "elsewhere")
    (root / "scripts").symlink_to(tmp_path / "elsewhere")
    assert "scripts is a link out of the checkout" in refused(root)


def test_the_contents_are_sent_as_they_are_whatever_git_attributes_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's git with LFS would send pointers, one with autocrlf other line ends."""
    settings = {
        "filter.lfs.clean": "echo pointer",
        "filter.lfs.required": "true",
        "core.autocrlf": "true",
        "core.safecrlf": "true",
        "commit.gpgSign": "true",
        "gpg.program": "false",
        "core.excludesFile": str(tmp_path / "ignore"),
    }
    files = {"a.bin": b"\0real", "scripts/crlf.py": b"x = 1\r\ny = 2\n", "i.txt": b"$Id$"}
    marks = ".gitattributes"
    root = start(tmp_path / "fork", PLAIN | files)
    write(tmp_path, {"ignore": "*.bin\n"})
    write(root, {marks: "*.bin filter=lfs -text\n*.txt ident\n"})
    git(root, "add", marks)
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(settings)))
    for n, (key, value) in enumerate(settings.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{n}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{n}", value)
    with copy_of(".", root) as copy:
        for name, content in files.items():
            got = git(copy.root, "cat-file", "-s", f"HEAD:{name}")
            assert int(got) == len(content), name


def test_more_than_20_mb_is_refused_and_names_the_largest_file(tmp_path: Path) -> None:
    root = start(tmp_path / "fork", PLAIN)
    with (root / "scripts/big.bin").open("wb") as f:
        f.truncate(21 << 20)
    assert "scripts/big.bin, 22 MB" in refused(root)


def test_a_file_in_conflict_is_sent_once(tmp_path: Path) -> None:
    root = start(tmp_path / "fork", PLAIN | {"a.txt": "one\n"})
    git(root, "checkout", "--quiet", "-b", "other")
    commit(write(root, {"a.txt": "two\n"}))
    git(root, "checkout", "--quiet", "main")
    commit(write(root, {"a.txt": "three\n"}))
    with pytest.raises(Exception):
        git(root, "merge", "--quiet", "other")
    assert b"<<<<<<<" in copied(root)[1]["a.txt"]


# ---- repositories in repositories
def test_a_checkout_in_a_folder_of_another_repository_is_sent_alone(tmp_path: Path) -> None:
    outer = start(
        tmp_path / "outer", {"private.txt": "p\n"} | {f"fork/{n}": c for n, c in PLAIN.items()}
    )
    write(outer, {"fork/tasks/new.py": "n\n", "scripts/of_outer.py": "o\n"})
    copy, sent = copied(outer / "fork")
    assert sent.keys() == PLAIN.keys() | {"tasks/new.py"} and copy.commit == head(outer)
    assert copy.source == "fork" and not copy.left
    commit(outer)
    write(outer, {"private.txt": "changed\n"})
    assert not copied(outer / "fork")[0].dirty, "what changed outside of it does not count"


def test_submodules_are_sent_with_their_local_changes(tmp_path: Path) -> None:
    library = start(tmp_path / "library", {"lib.py": "l\n", ".env": "A=b\n"})
    root = start(tmp_path / "fork", PLAIN)
    add_submodule(root, str(library), "nanochat/lib")
    commit(root)
    copy, sent = copied(root)
    assert sent["nanochat/lib/lib.py"] == b"l\n" and not copy.dirty
    assert copy.left.keys() == {"nanochat/lib/.env"}
    write(root, {"nanochat/lib/lib.py": "changed\n"})
    copy, sent = copied(root)
    assert sent["nanochat/lib/lib.py"] == b"changed\n" and copy.dirty


def test_a_submodule_that_is_not_checked_out_is_refused_with_the_command(tmp_path: Path) -> None:
    library = start(tmp_path / "library", {"lib.py": "l\n"})
    root = start(tmp_path / "fork", PLAIN)
    add_submodule(root, str(library), "nanochat/lib")
    commit(root)
    git(root, "submodule", "--quiet", "deinit", "--force", "nanochat/lib")
    assert "nanochat/lib is not checked out" in refused(root)
    assert "git submodule update --init" in refused(root)


@pytest.mark.parametrize("tracked", [True, False], ids=["added by accident", "untracked"])
def test_another_repository_in_the_checkout_is_left_out_and_named(
    tmp_path: Path, tracked: bool
) -> None:
    root = start(tmp_path / "fork", PLAIN)
    start(root / "scripts/other", {"a.py": "a\n"})
    if tracked:
        commit(root)
    copy, sent = copied(root)
    (path,) = copy.left
    assert path.rstrip("/") == "scripts/other" and copy.left[path] == "another git repository"
    assert sent.keys() == PLAIN.keys()


# ---- no checkout
def bare(root: Path) -> None:
    root.mkdir()
    git(root, "init", "--quiet", "--bare")


def bare_with_commits(root: Path) -> None:
    git(start(root.with_name("source"), PLAIN), "clone", "--quiet", "--bare", ".", str(root))


def without_a_commit(root: Path) -> None:
    write(root, PLAIN)
    git(root, "init", "--quiet")


def of_another_user(root: Path) -> None:
    start(root, PLAIN)
    os.environ["GIT_TEST_ASSUME_DIFFERENT_OWNER"] = "1"


def ignored_by_the_outer_repository(root: Path) -> None:
    start(root.with_name("outer"), {".gitignore": "fork\n", "fork/a.py": "a\n"})
    git(root.with_name("outer"), "rm", "--quiet", "--cached", "fork/a.py")
    root.symlink_to(root.with_name("outer") / "fork")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda root: write(root, PLAIN), "is not a git checkout with a commit"),
        (without_a_commit, "is not a git checkout with a commit"),
        (bare, "is not a git checkout with a commit"),
        (bare_with_commits, "is a bare repository, which has no files. Clone it"),
        (of_another_user, "belongs to another user"),
        (ignored_by_the_outer_repository, "git tracks no file of the checkout"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_a_folder_that_is_no_checkout_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object, words: str
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "0")
    make(tmp_path / "fork")  # type: ignore[operator]
    said = refused(tmp_path / "fork")
    assert words in said and "nothing was rented" in said
