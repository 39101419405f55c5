"""Chooses the files of a checkout that a launch sends: tracked files with their current content, and new files under
nanolan/, cloud/ and scripts/.

Left out: ignored files, files with names of secret files, other repositories. Refused: a file that contains a secret, a
link out of the checkout, more than MOST_BYTES. Writes only into a temporary folder; the user's repository is not changed.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nanolan.code.git import Checkout, open_checkout, run_git
from nanolan.code.secret_names import is_data_name, is_secret_name
from nanolan.code.secret_scan import Scanner
from nanolan.errors import PreflightFailed

# Untracked files are sent only from these folders
NEW_FROM = ("nanolan/", "cloud/", "scripts/")
MOST_BYTES = 20 << 20
SECRET_NAME = "the name of a secret file, a history or an editor's copy"
UNTRACKED = "git does not track it"
OTHER_REPO = "another git repository"
ENCRYPTED = "a filter of git encrypts it"
ENCRYPTS = re.compile(r"(?i)crypt|sops|vault|secret|(^|[-_])age$")  # names of such filters
DATA = "data or weights, which travel through the Hub"


@dataclass(frozen=True)
class Entry:
    """A file of the snapshot."""

    mode: str
    kind: str  # blob, or commit for a submodule
    sha: str
    size: int
    path: str


@dataclass(frozen=True)
class Snapshot:
    """What would be sent, and what would be left out."""

    checkout: Checkout
    tree: str
    new: tuple[str, ...]  # files in it that git does not track
    left: dict[str, str]  # path that is not sent -> reason

    @property
    def dirty(self) -> bool:
        return self.tree != self.checkout.tree


def check_code_of(root: Path, scanner: Scanner | None = None) -> Snapshot:
    """What a launch would send from `root`; PreflightFailed says why it is refused."""
    with tempfile.TemporaryDirectory(prefix="nanolan-bundle-") as temp:
        return take_snapshot(root, Path(temp), scanner or Scanner())[0]


def take_snapshot(root: Path, temp: Path, scanner: Scanner) -> tuple[Snapshot, dict[str, str]]:
    """The checked tree of what would be sent, and the environment in which git writes only below `temp`."""
    checkout = open_checkout(root)
    (temp / "objects").mkdir()
    git_env = {
        "GIT_INDEX_FILE": str(temp / "index"),
        "GIT_OBJECT_DIRECTORY": str(temp / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(checkout.objects),
    }
    check_merged(root)
    tracked = _names(run_git(root, "ls-files", "-z"))
    others = _names(run_git(root, "ls-files", "-z", "--others", "--exclude-standard"))
    new, left = sort_out(tracked, others)
    left |= dict.fromkeys(encrypted(root, tracked), ENCRYPTED)
    check_size((p, _size_here(root / p)) for p in (*(p for p in tracked if p not in left), *new))
    tree = _write_tree(checkout, new, [p for p in tracked if p in left], git_env)
    entries = _entries(root, tree, git_env)
    if modules := [e.path for e in entries if e.kind == "commit"]:
        left |= dict.fromkeys(modules, OTHER_REPO)
        tree = _write_tree(checkout, (), modules, git_env)
    check_size((e.path, e.size) for e in entries)
    contents = _contents(root, [e for e in entries if e.kind == "blob"], git_env)
    check_links({e.path: contents[e.path] for e in entries if e.mode == "120000"})
    check_secrets(scanner, contents)
    return Snapshot(checkout, tree, new, left), git_env


# ------------------------------------------------------------------ deciding
def sort_out(
    tracked: Iterable[str], others: Iterable[str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """(untracked files that are sent, path -> reason of what is left out)."""
    tracked = list(tracked)
    left = {path: DATA for path in tracked if is_data_name(path)}
    left |= {path: SECRET_NAME for path in tracked if is_secret_name(path)}
    new = []
    for path in others:
        if path.endswith("/"):
            left[path] = OTHER_REPO
        elif is_secret_name(path):
            left[path] = SECRET_NAME
        elif path.startswith(NEW_FROM) and is_data_name(path):
            left[path] = DATA
        elif path.startswith(NEW_FROM):
            new.append(path)
        else:
            left[path] = UNTRACKED
    return tuple(new), left


def check_merged(root: Path) -> None:
    """PreflightFailed if a merge left conflicts: such a file has no content to send."""
    lines = _names(run_git(root, "ls-files", "--unmerged", "-z"))  # one for each side
    if paths := list(dict.fromkeys(line.partition("\t")[2] for line in lines)):
        more = f" and {len(paths) - 1} more files" if len(paths) > 1 else ""
        raise PreflightFailed(
            f"{paths[0]}{more} has conflicts of an unfinished merge. Resolve them, then: git add, or give the merge up: "
            "git merge --abort; nothing was rented"
        )


def check_size(sizes: Iterable[tuple[str, int]]) -> None:
    """PreflightFailed if the files together are larger than MOST_BYTES."""
    known = dict(sizes)
    total = sum(known.values())
    if total > MOST_BYTES:
        largest = sorted(known, key=known.__getitem__, reverse=True)[:3]
        names = ", ".join(
            f"{name}, {known[name] / 1e6:,.0f} MB" for name in largest if known[name] >= 1e5
        )
        raise PreflightFailed(
            f"the code to send has {total / 1e6:,.0f} MB, more than {MOST_BYTES >> 20} MB. The largest files: {names}. "
            "Move them out of the checkout, or put their names into .gitignore; nothing was rented"
        )


def check_links(targets: dict[str, bytes]) -> None:
    """PreflightFailed if a link leads out of the checkout: the instance would not have its target."""
    for path, raw in targets.items():
        goal = os.fsdecode(raw)
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), goal))
        if goal.startswith("/") or place.split("/")[0] == "..":
            raise PreflightFailed(
                f"{path} is a link out of the checkout; the instance would not have its target. Replace the "
                "link by the file, or remove it; nothing was rented"
            )


def check_secrets(scanner: Scanner, contents: dict[str, bytes]) -> None:
    """PreflightFailed if a file of the snapshot contains a known secret or the pattern of a key."""
    if found := list(scanner.files(contents)):
        more = f" (and {len(found) - 3} more files)" if len(found) > 3 else ""
        raise PreflightFailed(
            f"{'; '.join(map(str, found[:3]))}{more}. Remove it: the code goes to the Hub and to a rented "
            "instance. To allow a made-up key, end its line with '# pragma: allowlist secret'. "
            "Nothing was sent, nothing was rented"
        )


# ------------------------------------------------------------------ git
def _write_tree(
    checkout: Checkout, add: Iterable[str], remove: Iterable[str], git_env: dict[str, str]
) -> str:
    """A tree of the user's index with the current content of all files, plus `add`, minus `remove`."""
    root, index = checkout.root, Path(git_env["GIT_INDEX_FILE"])
    if not index.exists():
        if checkout.index.is_file():
            # the copy has the files' times, so that git does not read unchanged files again; and its own time, by which git
            # knows which of them may have changed within the second in which it was written
            shutil.copy2(checkout.index, index)
        run_git(
            root,
            "update-index",
            "--no-assume-unchanged",
            "-z",
            "--stdin",
            env=git_env,
            stdin=run_git(root, "ls-files", "-z"),
        )
        hidden = [p for p in _skipped(root) if os.path.lexists(root / p)]
        run_git(
            root,
            "update-index",
            "--no-skip-worktree",
            "-z",
            "--stdin",
            env=git_env,
            stdin=_list(hidden),
        )
        run_git(root, "add", "--update", "--", ".", env=git_env)
    run_git(root, "update-index", "--add", "-z", "--stdin", env=git_env, stdin=_list(add))
    run_git(
        root, "update-index", "--force-remove", "-z", "--stdin", env=git_env, stdin=_list(remove)
    )
    return _line(run_git(root, "write-tree", env=git_env))


def _skipped(root: Path) -> list[str]:
    """Files that git was told not to look at: with an edit, or left out by a sparse checkout."""
    return [
        os.fsdecode(n[2:])
        for n in run_git(root, "ls-files", "-t", "-z").split(b"\0")
        if n[:1] == b"S"
    ]


def encrypted(root: Path, tracked: list[str]) -> list[str]:
    """Tracked files that a filter encrypts for the repository: in the folder they are in clear."""
    fields = _names(run_git(root, "check-attr", "-z", "--stdin", "filter", stdin=_list(tracked)))
    return [
        path for path, name in zip(fields[::3], fields[2::3], strict=True) if ENCRYPTS.search(name)
    ]


def _entries(root: Path, tree: str, git_env: dict[str, str]) -> list[Entry]:
    found = []
    for line in run_git(root, "ls-tree", "-r", "-l", "-z", tree, env=git_env).split(b"\0")[:-1]:
        facts, _, path = line.partition(b"\t")
        mode, kind, sha, size = facts.decode().split()
        found.append(Entry(mode, kind, sha, int(size) if size.isdigit() else 0, os.fsdecode(path)))
    return found


def _contents(root: Path, entries: list[Entry], git_env: dict[str, str]) -> dict[str, bytes]:
    """Path -> content, exactly as it would be sent."""
    raw = run_git(
        root,
        "cat-file",
        "--batch",
        env=git_env,
        stdin="".join(f"{e.sha}\n" for e in entries).encode(),
    )
    found = {}
    at = 0
    for e in entries:
        begin = raw.index(b"\n", at) + 1
        found[e.path] = raw[begin : begin + e.size]
        at = begin + e.size + 1
    return found


def _size_here(path: Path) -> int:
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _quoted(path: Path) -> str:
    """A path quoted for a list of paths in a git variable."""
    return '"' + str(path.resolve()).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _names(raw: bytes) -> list[str]:
    return [os.fsdecode(name) for name in raw.split(b"\0") if name]


def _list(names: Iterable[str]) -> bytes:
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def _line(raw: bytes) -> str:
    return raw.decode().strip()
