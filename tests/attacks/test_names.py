"""Names of files from the Hub, from manifests and on the disk: refused before anything is written, removed or uploaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanolan.checkpoint.manifest import (
    Manifest,
    borrow,
    hash_bytes,
    parse_manifest,
    read_whole,
    save_whole,
)
from nanolan.errors import BadAnswer, NanolanError, UsageProblem
from nanolan.hub.client import Tree
from nanolan.hub.download import fetch
from nanolan.hub.pins import pin_dataset
from nanolan.hub.pull import place
from nanolan.hub.transfer import Job
from nanolan.hub.upload_set import collect
from nanolan.plan import Pinned, PinnedFile
from nanolan.redact import Secret

FILE = hash_bytes("x", b"data")
# (what it is, a path in a repo)
PATHS = (
    ("up", "../pwned"),
    ("up and up", "../../pwned"),
    ("up in the middle", "a/../../pwned"),
    ("up at the end", "a/.."),
    ("here", "./pwned"),
    ("nothing", ""),
    ("absolute", "/tmp/pwned"),
    ("two slashes", "//host/share/pwned"),
    ("an empty folder", "a//pwned"),
    ("a folder", "a/"),
    ("a drive", "C:/pwned"),
    ("a drive's folder", "C:pwned"),
    ("UNC", "\\\\host\\share\\pwned"),
    ("backslashes up", "..\\pwned"),
    ("a backslash", "a\\pwned"),
    ("a stream", "pwned:stream"),
    ("NUL", "pwned\0.pt"),
    ("a line", "a\npwned"),
    ("a return", "a\rpwned"),
    ("escape", "\x1b]52;c;cHduZWQ=\x07"),
    ("backspaces", "safe\b\b\b\bpwned"),
    ("turned round", "model\u202etp.exe"),
    ("no width", "a\u200bpwned"),
    ("half a pair", "a\ud800"),
    ("dot at the end", "pwned."),
    ("blank at the end", "pwned "),
    ("blank folder", " /pwned"),
    ("dots", "a/.../pwned"),
    ("git", ".git/config"),
    ("git deeper", "a/.git/hooks/post-checkout"),
    ("300 characters", "a/" + "b" * 300),
    ("500 characters", "a/" * 250 + "b"),
    ("a star", "a*"),
    ("a pipe", "a|touch pwned"),
    ("a quote", 'a"pwned'),
    ("less than", "a<pwned"),
)
# Hostile to a careless shell alone: taken as they are
TAKEN = (
    ("an option", "-rf"),
    ("dollars", "$(touch pwned)"),
    ("ticks", "`touch pwned`"),
    ("semicolon", "a; touch pwned"),
    ("a brace", "{a,b}"),
    ("dots inside", "a..b/c.pt"),
    ("far away", "\u043c\u043e\u0434\u0435\u043b\u044c.pt"),
)


def pinned(*paths: str) -> Pinned:
    return Pinned(
        "me/r", "model", "e" * 40, tuple(PinnedFile(p, 4, FILE.sha256, "") for p in paths)
    )


def hub(job: Job, token: Secret, **how: Any) -> None:
    """Writes what it is asked for, as a client without any care would."""
    for path in job.files:
        (Path(job.folder) / path).parent.mkdir(parents=True, exist_ok=True)
        (Path(job.folder) / path).write_bytes(b"data")


def download(what: Pinned, folder: Path) -> None:
    fetch(
        what,
        folder,
        "http://127.0.0.1:1",
        Secret("hf_x"),
        give_up=lambda: "",
        say=lambda text: None,
        transfer=hub,
    )


@pytest.mark.parametrize("path", [p for _, p in PATHS], ids=[n for n, _ in PATHS])
def test_a_hostile_path_is_neither_downloaded_nor_removed_nor_pinned(
    path: str, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(BadAnswer, match="not a safe file name"):
        download(pinned("good.pt", path), tmp_path / "into")
    with pytest.raises(BadAnswer, match="not a safe file name"):
        Tree("me/r", "model", "e" * 40, True, {path: PinnedFile(path, 4, FILE.sha256, "")}).pin(
            [path]
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "precious"], (
        "not even the good one"
    )


def test_a_file_outside_is_not_removed_for_being_another(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(BadAnswer):
        download(pinned("../precious"), tmp_path / "into")
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("path", [p for _, p in TAKEN], ids=[n for n, _ in TAKEN])
def test_a_name_that_only_a_shell_would_stumble_over_is_a_file(path: str, tmp_path: Path) -> None:
    download(pinned(path), tmp_path / "into")
    assert (tmp_path / "into" / path).read_bytes() == b"data"


def test_a_glob_of_a_data_set_does_not_reach_out_of_its_folder() -> None:
    path = "main/train-/../../../../root/.ssh/authorized_keys.parquet"
    tree = Tree("openai/gsm8k", "dataset", "e" * 40, False, {path: PinnedFile(path, 4, None, "0")})
    hub: Any = SimpleNamespace(tree=lambda *_, **__: tree)
    with pytest.raises(BadAnswer):
        pin_dataset(hub, "openai/gsm8k", ["main/train-*.parquet"])


@pytest.mark.parametrize(
    "two",
    [
        ("Model.pt", "model.pt"),
        ("stra\u00dfe", "STRASSE"),
        ("\u00e9", "e\u0301"),
        ("A/b", "a/B"),
        ("\uff41", "a"),
    ],
    ids=ascii,
)
def test_two_names_for_one_file_are_refused(two: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(BadAnswer, match="the same file on some systems"):
        download(pinned(*two), tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_nothing_is_downloaded_through_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "into/a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "into/a/b").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadAnswer, match="through a link"):
        download(pinned("a/b/model.pt"), tmp_path / "into")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_link_in_the_place_of_a_download_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "into/model.pt").symlink_to(tmp_path / "precious")
    download(pinned("model.pt"), tmp_path / "into")
    assert (tmp_path / "precious").read_text() == "mine" and not (
        tmp_path / "into/model.pt"
    ).is_symlink()


# ------------------------------------------------------------------ manifests
def manifest_of(**changes: Any) -> str:
    entry = {"path": "model_000005.pt", "size": 4, "sha256": FILE.sha256, "git_sha1": FILE.git_sha1}
    good: dict[str, Any] = {
        "version": 1,
        "run_id": "ab12cd34",
        "phase": "sft",
        "step": 5,
        "final": True,
        "extra": {},
        "files": [entry],
    }
    return (
        json.dumps(good | changes)
        if "entry" not in changes
        else json.dumps(good | {"files": [entry | changes["entry"]]})
    )


@pytest.mark.parametrize("path", [p for _, p in PATHS], ids=[n for n, _ in PATHS])
def test_a_manifest_names_plain_files_alone(path: str) -> None:
    with pytest.raises(BadAnswer):
        parse_manifest(manifest_of(entry={"path": path}))


MANIFESTS = (
    ("an option", manifest_of(entry={"path": "-rf"})),
    ("hidden", manifest_of(entry={"path": ".env"})),
    ("a folder", manifest_of(entry={"path": "a/b"})),
    ("no files", manifest_of(files=[])),
    ("not a list", manifest_of(files={"a": 1})),
    ("itself", manifest_of(entry={"path": "manifest.json"})),
    ("itself in capitals", manifest_of(entry={"path": "MANIFEST.json"})),
    ("less than nothing", manifest_of(entry={"size": -1})),
    ("no number", manifest_of(entry={"size": "x"})),
    ("endless", manifest_of(entry={"size": 1e999}).replace("Infinity", "1e999")),
    (
        "one file twice",
        manifest_of(files=[vars(FILE) | {"path": p} for p in ("Model.pt", "model.PT")]),
    ),
    ("step below nothing", manifest_of(step=-1)),
    ("step of a path", manifest_of(step="../../x")),
    ("endless step", manifest_of(step=10**30)),
    ("no step", manifest_of(step=None)),
    ("true", manifest_of(step=True)),
    ("version", manifest_of(version="9" * 10**6)),
    ("extra", manifest_of(extra=[1])),
    ("deep", "[" * 100_000),
    ("deep inside", manifest_of(extra="DEEP").replace('"DEEP"', "[" * 9000 + "]" * 9000)),
    ("long number", manifest_of(step="N").replace('"N"', "9" * 9000)),
    ("page", "<html>Sign in</html>"),
    ("nothing", ""),
    ("null", "null"),
    ("NUL", "\0"),
)


@pytest.mark.parametrize("text", [t for _, t in MANIFESTS], ids=[n for n, _ in MANIFESTS])
def test_a_hostile_manifest_is_refused_in_one_short_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadAnswer) as e:
        parse_manifest(text)
    assert len(str(e.value)) < 500 and "\n" not in str(e.value).strip()
    (tmp_path / "step").mkdir()
    (tmp_path / "step/manifest.json").write_text(text)
    with pytest.raises(BadAnswer):
        read_whole(tmp_path / "step")


# ------------------------------------------------------------------ links in the place of files
def a_step(folder: Path) -> tuple[Path, Manifest]:
    found = save_whole(
        folder,
        5,
        lambda at: (
            [(at / n).write_bytes(b"data") for n in ("model_000005.pt", "meta_000005.json")]
            and None
        ),
        run_id="ab12cd34",
        phase="sft",
    )
    return found, read_whole(found)


@pytest.mark.parametrize("name", ["model_000005.pt", "manifest.json"])
def test_a_link_is_no_part_of_a_checkpoint_even_to_the_very_same_bytes(
    name: str, tmp_path: Path
) -> None:
    folder, _ = a_step(tmp_path / "out")
    (folder / name).replace(tmp_path / "moved")
    (folder / name).symlink_to(tmp_path / "moved")
    with pytest.raises(BadAnswer, match="not a complete checkpoint"):
        read_whole(folder)


def test_a_pipe_a_folder_and_an_endless_manifest_are_no_part_of_it(tmp_path: Path) -> None:
    for n, make in enumerate(
        (os.mkfifo, os.mkdir, lambda p: os.truncate(os.open(p, os.O_CREAT | os.O_WRONLY), 10 << 30))
    ):
        folder, _ = a_step(tmp_path / f"out{n}")
        (folder / "manifest.json").unlink()
        make(folder / "manifest.json")
        with pytest.raises(BadAnswer, match="not a complete checkpoint"):
            read_whole(folder)


def test_what_is_borrowed_is_never_what_a_link_leads_to(tmp_path: Path) -> None:
    folder, _ = a_step(tmp_path / "out")
    (tmp_path / "secrets.json").write_text("hf_secret")
    (folder / "model_000005.pt").unlink()
    (folder / "model_000005.pt").symlink_to(tmp_path / "secrets.json")
    with borrow(folder, tmp_path / "lent") as copy:
        assert (copy / "model_000005.pt").is_symlink()
        with pytest.raises(BadAnswer):
            read_whole(copy)


def test_a_hostile_folder_does_not_upload_what_its_links_lead_to(tmp_path: Path) -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----"  # pragma: allowlist secret
    (tmp_path / "id_rsa").write_text(key)
    (tmp_path / "checkpoint").mkdir()
    for name in ("model_000005.pt", "meta_000005.json", "optim_000005.pt"):
        (tmp_path / "checkpoint" / name).symlink_to(tmp_path / "id_rsa")
    (tmp_path / "tokenizer").mkdir()
    for name in ("tokenizer.pkl", "token_bytes.pt"):
        (tmp_path / "tokenizer" / name).symlink_to(tmp_path / "id_rsa")
    for kind, path in (("base", "checkpoint"), ("tokenizer", "tokenizer"), ("data", "id_rsa")):
        with pytest.raises(NanolanError) as e:
            collect(kind, tmp_path / path, "d20", optimizer=True)
        assert "OPENSSH" not in str(e.value)


def test_neither_pipe_nor_device_nor_endless_file_is_read_as_data(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.truncate(os.open(tmp_path / "endless", os.O_CREAT | os.O_WRONLY), 10 << 30)
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / "endless"):
        with pytest.raises(UsageProblem, match="not a file of at most 256 MiB; nothing was read"):
            collect("data", path, "d20")
    (tmp_path / "token_bytes.pt").write_bytes(b"")
    (tmp_path / "endless").replace(tmp_path / "tokenizer.pkl")
    with pytest.raises(BadAnswer, match="not a tokenizer"):
        collect("tokenizer", tmp_path, "d20")


def test_a_pulled_checkpoint_is_placed_beside_what_was_there(tmp_path: Path) -> None:
    folder, manifest = a_step(tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "d20").symlink_to(tmp_path / "elsewhere")
    place(manifest, folder, tmp_path / "d20", lambda text: None)
    assert (
        not list((tmp_path / "elsewhere").iterdir())
        and (tmp_path / "d20/model_000005.pt").is_file()
        and not (tmp_path / "d20").is_symlink()
    )
