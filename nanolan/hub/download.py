"""Downloads the pinned inputs to the box and checks their sizes and hashes; a restart downloads only what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from nanolan.checkpoint.conversations import write_conversations
from nanolan.checkpoint.manifest import hash_file
from nanolan.errors import BadAnswer
from nanolan.hub.layout import size_text
from nanolan.hub.transfer import Job, run_transfer
from nanolan.net.bar import transfer_bar
from nanolan.phases import IDENTITY_FILE
from nanolan.plan import Pinned, PinnedFile, Plan, check_names
from nanolan.redact import Secret

ROUNDS = 3  # downloads of a file whose bytes differ from the pinned ones
PATIENCE_S = 15 * 60  # with a Hub that fails or refuses: the GPUs idle, but no work can be lost
PATIENCE_CENTS = 500  # the same in money, but at least LEAST_PATIENCE_S
LEAST_PATIENCE_S = 3 * 60
PARTIAL = ".cache/huggingface/download"  # where the Hub's client keeps what has not arrived whole


def fetch_inputs(
    plan: Plan,
    token: Secret,
    work: Path,
    *,
    give_up: Callable[[], str],
    say: Callable[[str], None],
    patience_s: float = PATIENCE_S,
    transfer: Callable[..., None] = run_transfer,
) -> None:
    """Download everything that the plan pins to work/model and work/data; BadAnswer if the Hub serves other bytes."""
    for pinned in (*plan.inputs, *plan.datasets):
        fetch(
            pinned,
            folder_of(pinned, work),
            plan.hf_endpoint,
            token,
            give_up=give_up,
            say=say,
            patience_s=patience_s,
            transfer=transfer,
        )
    identity = work / "model" / IDENTITY_FILE
    if identity.is_file():
        (work / "data").mkdir(exist_ok=True)
        place_conversations(identity, work / "data" / IDENTITY_FILE)


def place_conversations(source: Path, target: Path) -> None:
    """Write the user's conversations where a trainer reads them, in the one form that every nanochat reads.

    A file that is not valid is copied as it is: launch let it pass because no phase reads it; a trainer names its line.
    """
    try:
        write_conversations(source, target)
    except BadAnswer:
        shutil.copyfile(source, target)


def patience_of(hourly_cents: int) -> float:
    """How long an instance of that price waits for its inputs while the Hub fails. Pure."""
    return min(PATIENCE_S, max(LEAST_PATIENCE_S, 3600 * PATIENCE_CENTS / max(hourly_cents, 1)))


def fetch(
    pinned: Pinned,
    folder: Path,
    endpoint: str,
    token: Secret,
    *,
    give_up: Callable[[], str],
    say: Callable[[str], None],
    patience_s: float = PATIENCE_S,
    transfer: Callable[..., None] = run_transfer,
    what: str = "",
) -> None:
    """Download the pinned files to folder/<path in the repo>; complete ones are not downloaded again.

    `what` is the name that the progress is shown with; "" is the repo's."""
    check_names(f.path for f in pinned.files)
    if links := [
        f.path
        for f in pinned.files
        if any((folder / p).is_symlink() for p in Path(f.path).parents if p.name)
    ]:
        raise BadAnswer(
            f"{folder / links[0]} would be written through a link; remove it. Nothing was downloaded"
        )
    for _ in range(ROUNDS):
        missing = [f for f in pinned.files if not is_downloaded(folder / f.path, f)]
        if not missing:
            return
        # the Hub client would mistake a damaged file for one that it downloaded before
        for f in missing:
            (folder / f.path).unlink(missing_ok=True)
        size = sum(f.size for f in missing)
        rev = pinned.revision[:8]
        say(f"downloading {len(missing)} files of {pinned.repo} at {rev} ({size_text(size)})")
        job = Job(
            "download",
            endpoint,
            pinned.repo,
            pinned.kind,
            pinned.revision,
            str(folder),
            tuple(f.path for f in missing),
        )
        arrived = bytes_of(folder, job.files)
        with transfer_bar(what or pinned.repo, size, arrived, say):
            transfer(job, token, give_up=give_up, say=say, patience_s=patience_s)
    raise BadAnswer(
        f"{pinned.repo}/{missing[0].path} arrived {ROUNDS} times with other bytes than the pinned ones"
    )


def bytes_of(folder: Path, files: Sequence[str]) -> Callable[[], int]:
    """A function that counts the bytes of these files that are in `folder`, and those that are on their way into it."""

    def size(path: Path) -> int:
        try:
            return path.stat().st_size
        except OSError:
            return 0

    def count() -> int:
        try:
            on_the_way = list((folder / PARTIAL).rglob("*.incomplete"))
        except OSError:
            on_the_way = []
        return sum(map(size, [*on_the_way, *(folder / f for f in files)]))

    return count


def folder_of(pinned: Pinned, work: Path) -> Path:
    return work / "model" if pinned.kind == "model" else work / "data" / pinned.repo


def is_downloaded(path: Path, want: PinnedFile) -> bool:
    """Whether the file exists with the pinned size and hash."""
    if not path.is_file() or path.stat().st_size != want.size:
        return False
    have = hash_file(path)
    return have.sha256 == want.sha256 if want.sha256 else have.git_sha1 == want.git_sha1
