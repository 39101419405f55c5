"""The code bundle of a checkout that was made to leak, and a bundle that was made to run something where it is unpacked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nanolan.code.bundle import make_bundle
from nanolan.errors import PreflightFailed

ENV = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "me",
    "GIT_AUTHOR_EMAIL": "me@here",
    "GIT_COMMITTER_NAME": "me",
    "GIT_COMMITTER_EMAIL": "me@here",
}


def git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=folder, env=ENV, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "-q")
    (root / "a.py").write_text("print('hello')\n")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "code")
    return root


def unpacked(root: Path, tmp_path: Path) -> Path:
    """As boot.sh does it."""
    make_bundle(root, tmp_path / "code.bundle", "ab12cd34")
    target = tmp_path / "unpacked"
    git(tmp_path, "init", "-q", str(target))
    git(target, "fetch", "-q", str(tmp_path / "code.bundle"), "refs/nanolan/ab12cd34/nanolan")
    git(target, "checkout", "-q", "FETCH_HEAD")
    return target


LEAKS = (
    ".env",
    ".ENV",
    ".Env.Local",
    "sub/.env",
    ".env.production",
    "id_rsa",
    "ID_RSA",
    "sub/id_ed25519.pub",
    "my.pem",
    "MY.PEM",
    "tls.key",
    ".ssh_keys/x",
    "sub/.ssh_keys/deep/x",
)


@pytest.mark.parametrize("name", LEAKS)
def test_no_key_of_whatever_case_is_in_the_bundle_even_if_git_tracks_it(
    name: str, checkout: Path, tmp_path: Path
) -> None:
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text("HF_TOKEN=hf_secret")
    git(checkout, "add", "-f", ".")
    git(checkout, "commit", "-q", "-m", "oh dear")
    assert sorted(
        p.name
        for p in unpacked(checkout, tmp_path).rglob("*")
        if p.is_file() and ".git" not in p.parts
    ) == ["a.py"]
    assert b"hf_secret" not in (tmp_path / "code.bundle").read_bytes()


def link_out(root: Path) -> None:
    (root.parent / "secret.txt").write_text("hf_secret")
    (root / "notes").symlink_to(root.parent / "secret.txt")


def linked_folder(root: Path) -> None:
    (root.parent / "home").mkdir()
    (root.parent / "home/config.txt").write_text("hf_secret")
    (root / "conf").symlink_to(root.parent / "home")


def hooks(root: Path) -> None:
    for name in (
        "post-checkout",
        "post-merge",
        "pre-commit",
        "reference-transaction",
        "post-index-change",
    ):
        (root / ".git/hooks" / name).write_text("#!/bin/sh\ntouch pwned\n")
        (root / "githooks").mkdir(exist_ok=True)
        (root / "githooks" / name).write_text("#!/bin/sh\ntouch pwned\n")


def filters(root: Path) -> None:
    (root / ".gitattributes").write_text(
        "* filter=evil diff=evil merge=evil\n*.py ident export-subst\n"
    )


def submodule(root: Path) -> None:
    (root / ".gitmodules").write_text(
        '[submodule "x"]\n\tpath = x\n\turl = ext::sh -c "touch pwned"\n\tupdate = !touch pwned\n'
    )
    git(root, "update-index", "--add", "--cacheinfo", "160000," + "c0ffee" * 6 + "c0ff,x")


def own_config(root: Path) -> None:
    (root / ".lfsconfig").write_text('[lfs]\n\turl = "http://evil.invalid"\n')
    (root / "config").write_text("[core]\n\tfsmonitor = touch pwned\n\tsshCommand = touch pwned\n")


def odd_names(root: Path) -> None:
    for name in (
        "-rf",
        "--upload-pack=touch pwned",
        "$(touch pwned)",
        "`touch pwned`",
        ":(glob)**",
        "a\nb",
        "\u202eyp.a",
        ".git_",
        "HEAD",
        "a b",
    ):
        (root / name).write_text("x")


MADE: dict[str, Callable[[Path], None]] = {
    "a link out": link_out,
    "a linked folder": linked_folder,
    "hooks": hooks,
    "filters": filters,
    "a submodule": submodule,
    "its own config": own_config,
    "odd names": odd_names,
}


@pytest.mark.parametrize("what", list(MADE))
def test_a_hostile_checkout_neither_leaks_nor_runs_where_it_is_unpacked(
    what: str, checkout: Path, tmp_path: Path
) -> None:
    MADE[what](checkout)
    target = unpacked(checkout, tmp_path)
    assert (
        b"hf_secret" not in (tmp_path / "code.bundle").read_bytes()
        and (target / "a.py").read_text() == "print('hello')\n"
    )
    assert not [
        p
        for p in target.rglob("*")
        if p.is_file()
        and not p.is_symlink()
        and ".git" not in p.parts
        and "hf_secret" in p.read_text(errors="replace")
    ]
    assert git(checkout, "for-each-ref", "refs/nanolan") == "", "no ref of ours stays"


@pytest.mark.parametrize(
    "run_id", ["../../heads/main", "-d", "a b", "a..b", "a~b", "a\nb", "a.lock", "@{-1}"]
)
def test_a_run_id_that_is_no_name_for_git_is_refused_by_git(
    run_id: str, checkout: Path, tmp_path: Path
) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    try:
        make_bundle(checkout, tmp_path / "code.bundle", run_id)
    except PreflightFailed as e:
        assert "nothing was rented" in str(e)
    assert (
        git(checkout, "rev-parse", "HEAD") == head and git(checkout, "status", "--porcelain") == ""
    )
