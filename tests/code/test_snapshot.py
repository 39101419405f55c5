"""The files that are sent: tracked ones and new files of the code, never a secret; the rest is left out and listed."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from nanolan.code.bundle import bundle_and_snapshot, make_bundle
from nanolan.code.check import code_here
from nanolan.code.snapshot import MOST_BYTES, Snapshot, check_code_of
from nanolan.errors import PreflightFailed
from nanolan.redact import Secret
from nanolan.settings.settings import ROOT
from tests.support.core_fixtures import git

TOKEN = "hf_" + "Qw7" * 11 + "x"
KEY = "sf-" + "9aZ4kP2mX8" * 2
HEX40 = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    Secret(TOKEN), Secret(KEY)
    return start(tmp_path / "checkout")


def start(root: Path) -> Path:
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    write(
        root,
        {
            "README.md": "one\n",
            ".gitignore": "*.log\n",
            "nanolan/a.py": "x = 1\n",
            "scripts/b.py": "y = 2\n",
        },
    )
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=first")
    return root


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def sent(root: Path, tmp_path: Path) -> dict[str, bytes]:
    """Every file of the bundle, fetched as boot.sh does it; and every object of it."""
    target, bundle = tmp_path / "out", tmp_path / "code.bundle"
    make_bundle(root, bundle, "ab12cd34")
    target.mkdir()
    git(target, "init", "--quiet")
    git(target, "fetch", "--quiet", str(bundle), "refs/nanolan/ab12cd34/nanolan")
    git(target, "checkout", "--quiet", "FETCH_HEAD")
    return {p: (target / p).read_bytes() for p in git(target, "ls-files").splitlines()}


# What people have lying about in a checkout; each with this launch's own token or key in it
LYING_ABOUT = {
    "editor's backup of .env": ".env~",
    "editor's swap file": ".env.swp",
    "vim's swap file": "nanolan/.config.py.swp",
    "emacs's autosave": "scripts/#launch.py#",
    "emacs's lock": "scripts/.#launch.py",
    "a backup by hand": "scripts/launch.py.bak",
    "what a merge left": "nanolan/settings/settings.py.orig",
    "what a patch left": "nanolan/settings/settings.py.rej",
    "an old copy": "cloud/boot.sh.old",
    "direnv": ".envrc",
    "an env file by another name": "prod.env",
    "an env file of the code": "nanolan/.env.local",
    "bash's history": ".bash_history",
    "zsh's history": "scripts/.zsh_history",
    "Python's history": "nanolan/.python_history",
    "psql's history": ".psql_history",
    "history by another name": "commands.history",
    "nohup": "scripts/nohup.out",
    "notes": "notes.txt",
    "a to-do list": "TODO.md",
    "a key in a file of its own": "shadeform-key.txt",
    "a token": "token",
    "what hf left": "stored_tokens",
    "netrc": ".netrc",
    "netrc on Windows": "_netrc",
    "pip's": ".pypirc",
    "npm's": ".npmrc",
    "git's": ".git-credentials",
    "docker's": ".docker/config.json",
    "kubernetes's": "kubeconfig.yaml",
    "a compose file": "compose.yaml",
    "a shell script": "run.sh",
    "a notebook": "try.ipynb",
    "a notebook's checkpoint": "nanolan/.ipynb_checkpoints/try.ipynb",
    "VS Code's": ".vscode/launch.json",
    "PyCharm's": ".idea/workspace.xml",
    "a recording": "typescript",
    "HTTP traffic": "session.har",
    "a core dump": "core.4711",
    "terraform's state": "terraform.tfstate",
    "a service account": "my-service-account-1.json",
    "a PEM": "cloud/server.pem",
    "a PuTTY key": "box.ppk",
    "an export": "exported/config.json",
    "a checkpoint": "my-checkpoints/meta.json",
    "a log by another name": "logs/launch.txt",
    "a test that was begun": "tests/test_mine.py",
    "a patch": "fix.patch",
    "curl's": ".curlrc",
    "wget's": "wget.txt",
    "a database": "runs.sqlite",
    "a screenshot's text": "docs/screen.txt",
}


@pytest.fixture(scope="module")
def littered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, str]:
    """A checkout with all of it: its snapshot, and what the checklist says of it."""
    root = start(tmp_path_factory.mktemp("littered") / "checkout")
    write(
        root, {name: f"export KEY={TOKEN}\nkey: {KEY}\n{HEX40}\n" for name in LYING_ABOUT.values()}
    )
    checks = code_here("ab12cd34", root)[2]
    assert [c.ok for c in checks] == [True, None]
    return check_code_of(root), checks[1].text


@pytest.mark.parametrize("what", LYING_ABOUT)
def test_other_files_in_a_checkout_are_left_out_and_listed(
    littered: tuple[Snapshot, str], what: str
) -> None:
    snapshot, said = littered
    assert LYING_ABOUT[what] in snapshot.left and LYING_ABOUT[what] in said


def test_of_an_untidy_checkout_only_the_code_is_sent(
    littered: tuple[Snapshot, str],
) -> None:
    snapshot, _ = littered
    assert (
        not snapshot.dirty
        and snapshot.new == ()
        and set(snapshot.left) == set(LYING_ABOUT.values())
    )


HOLDS = {
    "a new file of the code": ("nanolan/mine.py", f"KEY = '{TOKEN}'\n", 1),
    "a new file of another type": ("scripts/notes.txt", f"one\ntwo {KEY}\n", 2),
    "UTF-16": ("scripts/notes.txt", f"key {KEY}".encode("utf-16"), None),
    "gzip": ("cloud/log.gz", gzip.compress(TOKEN.encode()), None),
    "a file that git tracks": ("README.md", f"one\n{TOKEN}\n", 2),
    "a token that is not known here": ("nanolan/mine.py", "TOKEN = 'hf_" + "aB3" * 12 + "'\n", 1),
    "a private key": ("scripts/id", "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n", 1),
    "wandb's key": ("scripts/run.sh", f"export WANDB_API_KEY={HEX40}\n", 1),
    "a file name": (f"nanolan/{KEY}.py", "x\n", None),
}


@pytest.mark.parametrize("what", HOLDS)
@pytest.mark.parametrize("tracked", [False, True], ids=["untracked", "tracked"])
def test_a_secret_in_a_file_that_would_be_sent_stops_the_launch(
    repo: Path, tmp_path: Path, what: str, tracked: bool
) -> None:
    name, content, line = HOLDS[what]
    write(repo, {name: content})
    if tracked:
        git(repo, "add", "--all")
        git(repo, "commit", "--quiet", "--message=oops")
    before = objects(repo)
    with pytest.raises(PreflightFailed) as e:
        make_bundle(repo, tmp_path / "code.bundle", "ab12cd34")
    assert (
        "nothing was rented" in str(e.value)
        and TOKEN not in str(e.value)
        and KEY not in str(e.value)
    )
    assert ("a file name" if KEY in name else name) in str(e.value) and (
        line is None or f"{name}, line {line} holds" in str(e.value)
    )
    assert not (tmp_path / "code.bundle").exists() and objects(repo) == before, (
        "what is refused is not kept in .git either"
    )


def objects(root: Path) -> list[str]:
    return sorted(str(p) for p in (root / ".git").rglob("*") if p.is_file())


def test_nothing_is_written_into_the_users_repository(repo: Path, tmp_path: Path) -> None:
    write(repo, {"README.md": "changed\n", "nanolan/new.py": "new\n"})
    git(repo, "status")
    before = {p: (repo / p).read_bytes() for p in objects(repo)}
    assert set(sent(repo, tmp_path)) == {
        "README.md",
        ".gitignore",
        "nanolan/a.py",
        "nanolan/new.py",
        "scripts/b.py",
    }
    assert {p: (repo / p).read_bytes() for p in objects(repo)} == before


def test_a_refusal_is_a_failed_check(repo: Path) -> None:
    write(repo, {"nanolan/mine.py": f"{TOKEN}\n"})
    checks = code_here("ab12cd34", repo)[2]
    assert [(c.name, c.ok) for c in checks] == [
        ("code", False)
    ] and "nanolan/mine.py, line 1 holds" in checks[0].text


def test_new_files_that_are_sent_are_listed(repo: Path) -> None:
    write(
        repo,
        {"nanolan/new.py": "new\n", "scripts/a b.py": "odd\n", "x.txt": "x\n", ".env.old": "x\n"},
    )
    texts = {c.name: c.text for c in code_here("ab12cd34", repo)[2]}
    assert "nanolan/new.py, 'scripts/a b.py'" in texts["code, untracked"]
    assert (
        "git does not track it: x.txt" in texts["code, left out"]
        and "editor's copy: .env.old" in texts["code, left out"]
    )


def test_staged_files_count_as_tracked(repo: Path, tmp_path: Path) -> None:
    write(
        repo,
        {
            "staged.txt": "staged\n",
            "intended.txt": "intended\n",
            "README.md": "changed\n",
            "loose.txt": "x\n",
        },
    )
    git(repo, "add", "staged.txt")
    git(repo, "add", "--intent-to-add", "intended.txt")
    git(repo, "update-index", "--assume-unchanged", "README.md")
    files = sent(repo, tmp_path)
    assert (
        files["staged.txt"] == b"staged\n"
        and files["intended.txt"] == b"intended\n"
        and files["README.md"] == b"changed\n"
    )
    assert "loose.txt" not in files


def test_a_secret_in_the_history_is_in_no_object_of_the_bundle(repo: Path, tmp_path: Path) -> None:
    write(repo, {"nanolan/a.py": f"KEY = '{KEY}'\n" + "x = 1\n" * 500})
    git(repo, "commit", "--quiet", "--all", "--message=oops")
    write(repo, {"nanolan/a.py": "KEY = ''\n" + "x = 1\n" * 500})
    git(repo, "commit", "--quiet", "--all", f"--message=take {KEY} out")
    sent(repo, tmp_path)
    out = tmp_path / "out"
    ids = [
        line.split()[0]
        for line in git(out, "cat-file", "--batch-all-objects", "--batch-check").splitlines()
    ]
    assert len(ids) > 5 and not [i for i in ids if KEY in git(out, "cat-file", "-p", i)]


@pytest.mark.parametrize("tracked", [False, True])
def test_a_huge_file_is_refused_by_its_name_before_it_is_read(
    repo: Path, tmp_path: Path, tracked: bool
) -> None:
    write(repo, {"nanolan/small.bin": bytes(1000), "nanolan/huge.bin": b""})
    if tracked:
        git(repo, "add", "--all")
    with open(repo / "nanolan/huge.bin", "wb") as f:
        f.truncate(50 << 30)  # reading it would take minutes
    with pytest.raises(
        PreflightFailed, match=r"more than 20 MB. The largest files: nanolan/huge.bin, 53,687 MB"
    ):
        make_bundle(repo, tmp_path / "code.bundle", "ab12cd34")


def test_a_huge_file_outside_of_the_code_is_ignored(repo: Path, tmp_path: Path) -> None:
    (repo / "my-checkpoints").mkdir()
    with open(repo / "my-checkpoints/model_000100.pt", "wb") as f:
        f.truncate(50 << 30)
    make_bundle(repo, tmp_path / "code.bundle", "ab12cd34")


def test_sizes_add_up_also_for_files_that_are_only_in_git(repo: Path, tmp_path: Path) -> None:
    write(repo, {f"nanolan/{i}.bin": bytes(MOST_BYTES // 4) for i in range(4)})
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message=big")
    git(repo, "update-index", "--skip-worktree", *(f"nanolan/{i}.bin" for i in range(4)))
    for i in range(4):
        (repo / f"nanolan/{i}.bin").unlink()
    with pytest.raises(PreflightFailed, match="more than 20 MB. The largest files: nanolan/"):
        make_bundle(repo, tmp_path / "code.bundle", "ab12cd34")


@pytest.mark.parametrize(
    "name, goal, good",
    [
        ("nanolan/link.py", "a.py", True),
        ("nanolan/link.py", "../scripts/b.py", True),
        ("nanolan/link.py", "../../outside.py", False),
        ("nanolan/link.py", "/etc/hosts", False),
        ("scripts/deep", "../../..", False),
        ("cloud", "..", False),
    ],
)
@pytest.mark.parametrize("tracked", [False, True])
def test_a_link_out_of_the_checkout_is_refused(
    repo: Path, tmp_path: Path, name: str, goal: str, good: bool, tracked: bool
) -> None:
    (repo / name).symlink_to(goal)
    (tmp_path / "outside.py").write_text(TOKEN)
    if tracked:
        git(repo, "add", "--all")
    if good:
        assert name in sent(repo, tmp_path)
    elif tracked or "/" in name:
        with pytest.raises(PreflightFailed, match=f"{name} is a link out of the checkout"):
            make_bundle(repo, tmp_path / "code.bundle", "ab12cd34")
    else:
        assert name not in sent(repo, tmp_path)


def test_other_repositories_in_the_checkout_are_left_out(repo: Path, tmp_path: Path) -> None:
    inner = repo / "nanolan/inner"
    inner.mkdir()
    git(inner, "init", "--quiet")
    write(inner, {"secret.txt": TOKEN})
    git(inner, "add", "--all")
    git(inner, "commit", "--quiet", "--message=x")
    head = git(inner, "rev-parse", "HEAD")
    _, untracked = bundle_and_snapshot(repo, tmp_path / "a.bundle", "ab12cd34")
    git(repo, "update-index", "--add", "--cacheinfo", f"160000,{head},nanolan/inner")
    _, module = bundle_and_snapshot(repo, tmp_path / "b.bundle", "ab12cd34")
    assert list(untracked.left) == ["nanolan/inner/"] and list(module.left) == ["nanolan/inner"]
    assert "nanolan/inner" not in sent(repo, tmp_path)


def test_this_checkout_can_be_launched() -> None:
    code, data, checks = code_here("ab12cd34")
    assert checks[0].ok, checks[0].text
    assert code.size == len(data) and ROOT


@pytest.mark.parametrize("name", ["model.pt", "data.parquet", "W.SAFETENSORS", "x/opt.npz"])
def test_weights_and_data_never_travel_in_the_code(repo: Path, name: str) -> None:
    """Whether git tracks them or not: the Hub carries them."""
    write(repo, {f"nanolan/{name}": b"x" * 1000})
    untracked = check_code_of(repo)
    git(repo, "add", "-A", "-f")
    git(repo, "commit", "-q", "-m", "weights")
    for snapshot in (untracked, check_code_of(repo)):
        assert snapshot.left[f"nanolan/{name}"].startswith("data or weights")
        assert f"nanolan/{name}" not in snapshot.new
