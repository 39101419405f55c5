"""`trainer=` as an address, or as a path: what is fetched, what is refused, and that no token is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolan.errors import NanolanError, PreflightFailed, UsageProblem
from nanolan.trainers.checkout import copy_of
from nanolan.trainers.fetch import parse_url
from tests.support.checkouts import TOKEN, add_submodule, commit, head, start, write
from tests.support.core_fixtures import git

SHA = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare repository, and one next to it that is its submodule by a relative address."""
    folder = tmp_path_factory.mktemp("served")
    library = start(folder / "library-work", {"lib.py": "1\n"})
    git(folder, "clone", "--quiet", "--bare", str(library), "library.git")
    work = start(folder / "work", {"a.py": "old\n"})
    add_submodule(work, str(folder / "library.git"), "lib")
    git(work, "config", "--file", ".gitmodules", "submodule.lib.url", "../library.git")
    commit(work)
    commit(write(library, {"lib.py": "2\n"}))  # the submodule is no longer at its branch's end
    git(library, "push", "--quiet", str(folder / "library.git"), "main")
    commit(write(work, {"a.py": "new\n"}))
    git(folder, "clone", "--quiet", "--bare", str(work), "fork.git")
    return folder


def files_of(value: str, folder: Path) -> dict[str, str]:
    with copy_of(value, folder) as copy:
        return {n: (copy.root / n).read_text() for n in git(copy.root, "ls-files").splitlines()}


def refused(value: str, folder: Path, kind: type[NanolanError] = UsageProblem) -> str:
    with pytest.raises(kind) as e, copy_of(value, folder):
        pass
    assert "nanolan-fork-" not in str(e.value), "the name of a temporary folder"
    return str(e.value)


@pytest.mark.parametrize("version", ["2", "0"], ids=["any commit", "only ends of branches"])
def test_any_commit_of_an_address_is_fetched_with_its_submodules(
    served: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Servers of the old protocol give no commit that is not the end of a branch."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.version")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", version)
    url, old = f"file://{served}/fork.git", git(served / "work", "rev-parse", "HEAD~1")
    found = files_of(f"{url}@{old}", Path("/nowhere"))
    assert (found["a.py"], found["lib/lib.py"]) == ("old\n", "1\n")
    with copy_of(f"{url}@{old}", Path("/nowhere")) as copy:
        assert (copy.source, copy.commit, copy.dirty) == (url, old, False)


def test_a_commit_or_a_repository_that_is_not_there_is_said_with_the_address(served: Path) -> None:
    url = f"file://{served}/fork.git"
    said = refused(f"{url}@{SHA}", served, PreflightFailed)
    assert url in said and SHA[:8] in said and "nothing was rented" in said
    said = refused(f"file://{served}/none.git@{SHA}", served, PreflightFailed)
    assert "none.git" in said and "nothing was rented" in said


def test_an_address_elsewhere_cannot_name_a_submodule_on_this_laptop(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's repository would have files of this laptop sent to the Hub."""
    private = start(tmp_path / "private", {"diary.txt": "d\n"})
    fork = start(tmp_path / "fork", {"a.py": "a\n"})
    add_submodule(fork, str(private), "lib")
    commit(fork)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")  # this ssh address is that folder
    monkeypatch.setenv("GIT_SSH_COMMAND", f"sh -c 'git-upload-pack {fork}'")
    monkeypatch.setenv("GIT_SSH_VARIANT", "simple")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    said = refused(f"ssh://git@example.org/fork.git@{head(fork)}", tmp_path, PreflightFailed)
    assert "git submodule" in said and "transport 'file' not allowed" in said


# ---- addresses
@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/me/nanochat",
        "https://github.com/me/nanochat.git",
        "https://git.example.org:8443/~me/nanochat",
        "ssh://git@github.com/me/nanochat.git",
        "ssh://git@example.org:2222/me/nanochat.git",
        "ssh://example.org/me/nanochat.git",
        "git@github.com:me/nanochat.git",
        "file:///home/me/nanochat.git",
    ],
)
def test_addresses_of_every_kind_are_understood(url: str) -> None:
    assert parse_url(f"{url}@{SHA}") == (url, SHA)


@pytest.mark.parametrize(
    "value, words",
    [
        ("https://github.com/me/nanochat", "the whole commit"),
        ("https://github.com/me/nanochat@", "the whole commit"),
        ("https://github.com/me/nanochat@main", "the whole commit"),
        (f"https://github.com/me/nanochat@{SHA[:7]}", f"nanochat@{SHA[:7]}: give"),
        (f"https://github.com/me/nanochat@{SHA}0", "the whole commit"),
        (f"https://github.com/me/nanochat@{SHA.upper()}", "the whole commit"),
        (f"https://github.com/me/nanochat/tree/{SHA}", "the whole commit"),
        (f"git@github.com:me/nanochat@{SHA[:12]}", "the whole commit"),
        ("ssh://git@github.com/me/nanochat", "the whole commit"),
        (f"ftp://example.org/nanochat@{SHA}", "give https://"),
        (f"ext::sh -c touch% evil@{SHA}", "no folder here"),
        (f"ext::sh://x@{SHA}", "give https://"),
        (f"git+https://github.com/me/nanochat@{SHA}", "give https://"),
        (f"HTTPS://github.com/me/nanochat@{SHA}", "give https://"),
        (f"https://github.com/me/nano chat@{SHA}", "give https://"),
        ("https://", "the whole commit"),
        ("://", "the whole commit"),
        ("@", "no folder here"),
    ],
)
def test_an_address_that_is_not_whole_is_refused(tmp_path: Path, value: str, words: str) -> None:
    said = refused(value, tmp_path)
    assert words in said and said.count("\n") == 0 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value",
    [
        f"https://{TOKEN}@github.com/me/nanochat@{SHA}",
        f"https://me:{TOKEN}@github.com/me/nanochat@{SHA}",
        f"https://me:{TOKEN}@github.com/me/nanochat",
        f"https://me:{TOKEN}@github.com",
        f"https://me:{TOKEN}@localhost",
        f"https://{TOKEN}@localhost",
        f"https://me:{TOKEN}@github.com/me/nanochat@main",
        f"https://me:{TOKEN}/b@github.com/me/nanochat@{SHA}",
        f"https://me:{TOKEN}@b@github.com/me/nanochat@{SHA}",
        f"https://me:{TOKEN}://b@github.com/me/nanochat@{SHA}",
        f"http://me:{TOKEN}@github.com/me/nanochat@{SHA}",
        f"HTTPS://me:{TOKEN}@github.com/me/nanochat@{SHA}",
        f"git+https://me:{TOKEN}@github.com/me/nanochat@{SHA}",
        f"ftp://me:{TOKEN}@github.com/me/nanochat@{SHA}",
        f"ssh://me:{TOKEN}@github.com/me/nanochat@{SHA}",
        f"me:{TOKEN}@github.com/me/nanochat@{SHA}",
        f"{TOKEN}@github.com/me/nanochat",
        f"https://github.com/me/nanochat?token={TOKEN}@{SHA}",
        f"https://github.com/me/nanochat#{TOKEN}@{SHA}",
        f"//me:{TOKEN}@github.com/me/nanochat@{SHA}",
    ],
)
def test_an_address_with_a_token_is_refused_and_the_token_never_shown(
    tmp_path: Path, value: str
) -> None:
    assert TOKEN not in refused(value, tmp_path)


def test_a_token_in_what_git_says_is_hidden(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many keep a token in git's own settings, by which it rewrites every address."""
    base = f"http://me:{TOKEN}@127.0.0.1:9/"
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{base}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "http://127.0.0.1:9/")
    said = refused(f"http://127.0.0.1:9/me/x@{SHA}", tmp_path, PreflightFailed)
    assert "git fetch of http://127.0.0.1:9/me/x" in said and TOKEN not in said
    fork = start(tmp_path / "fork", {"a.py": "a\n"})
    add_submodule(fork, f"file://{served}/library.git", "lib")
    git(fork, "config", "--file", ".gitmodules", "submodule.lib.url", f"{base}lib.git")
    commit(fork)
    assert TOKEN not in refused(f"file://{fork}@{head(fork)}", tmp_path, PreflightFailed)


# ---- paths
def test_a_path_is_relative_to_where_it_was_typed_and_tilde_is_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path / "home/fork", {"a.py": "a\n"})
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home/fork")
    for value in ("../home/fork", "~/fork", str(tmp_path / "home/fork"), "../home/./fork/"):
        assert files_of(value, tmp_path / "here") == {"a.py": "a\n"}
    assert files_of(".", tmp_path / "home/fork") == {"a.py": "a\n"}


@pytest.mark.parametrize(
    "value",
    ["none", "file", "~nobody-here/x", "circle", "x" * 5000, "x/" * 3000, "file/x", "-rf", "*", ""],
    ids=lambda v: v[:20],
)
def test_a_path_that_is_no_folder_is_one_line(tmp_path: Path, value: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "circle").symlink_to("circle")
    kind = UsageProblem if value else PreflightFailed
    assert len(refused(value, tmp_path, kind)) < 400


def test_the_name_of_the_folder_cannot_break_the_plan(tmp_path: Path) -> None:
    name = b"n\xff\x1b[2J\nx".decode("utf-8", "surrogateescape")
    root = start(tmp_path / name, {"a.py": "a\n"})
    with copy_of(".", root) as copy:
        assert copy.source == "n??[2J?x"
