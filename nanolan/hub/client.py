"""The Hugging Face Hub through huggingface_hub, with time-outs, retries and nanolan's own errors.

huggingface_hub alone fails at once on a 503 to a commit and waits for ever on a stalled upload, so every call here is
retried for `patience_s`. Large files go through nanolan/hub/transfer.py.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    hf_hub_download,
    hf_hub_url,
)
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, disable_progress_bars, get_session

from nanolan.errors import BadAnswer, Conflict, NotFound
from nanolan.hub.http import use_timeouts
from nanolan.hub.trouble import FAILURES, failure_of
from nanolan.hub.trouble import TOKENS_URL as TOKENS_URL
from nanolan.net.backoff import backoff_s, jittered_s
from nanolan.net.deadline import with_timeout
from nanolan.net.errors import BUSY, Trouble
from nanolan.plan import Pinned, PinnedFile, check_names
from nanolan.redact import Secret, hide

LAPTOP_PATIENCE_S = 45.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
UNREACHED_S = (
    8.0  # patience with a host that cannot be found or refuses the connection, on a laptop
)
MAX_REQUESTED_WAITS = 3  # waits that the Hub asks for (Retry-After) beyond the patience of a laptop
COMMIT_S = 120.0  # a commit of small files
SMALL_FILE = 16 << 20  # most bytes that `read` takes into memory
SHORTER = 416  # than the range that was asked for
TAIL = 1 << 10  # bytes of a file that are read back
CHANGED = 412  # HTTP status of a commit whose parent is not the newest revision
NAP_S = 5.0  # longest single sleep: the clock is checked in between
KEPT_HEADERS = (
    "retry-after",
    "ratelimit",
    "content-type",
    "location",
    "x-error-code",
    "x-error-message",
)

T = TypeVar("T")


@dataclass(frozen=True)
class Tree:
    """All files of a repo at one revision. `repo` is a model's current name on the Hub, even if an older name was asked for;
    a data set keeps the name that the trainer uses."""

    repo: str
    kind: str
    revision: str
    private: bool
    files: dict[str, PinnedFile]

    def under(self, folder: str) -> dict[str, PinnedFile]:
        """The files below `folder`, by their path in the repo."""
        return {p: f for p, f in self.files.items() if p.startswith(folder.rstrip("/") + "/")}

    def pin(self, paths: Iterable[str], proven: bool = False) -> Pinned:
        wanted = sorted(paths)
        check_names(wanted)
        return Pinned(
            self.repo, self.kind, self.revision, tuple(self.files[p] for p in wanted), proven
        )


def get_small(url: str, headers: dict[str, str]) -> httpx2.Response:
    """The answer to a GET; reads at most one byte more than a small file may have."""
    with get_session().stream("GET", url, headers=headers) as answer:
        data = _at_most(SMALL_FILE + 1, answer)
    kept = {k: v for k, v in answer.headers.items() if k.lower() in KEPT_HEADERS}
    return httpx2.Response(answer.status_code, headers=kept, content=data, request=answer.request)


def _at_most(size: int, answer: httpx2.Response) -> bytes:
    """The first `size` bytes of an answer, without waiting for the rest."""
    data = bytearray()
    for chunk in answer.iter_bytes(1 << 16):
        data += chunk
        if len(data) >= size:
            break
    return bytes(data[:size])


def draw_no_bars() -> None:
    """Turn the Hub client's progress bars off: they move the cursor, which the filter over this process's output forbids."""
    with warnings.catch_warnings():  # it warns if the user's environment turns them on
        warnings.simplefilter("ignore")
        disable_progress_bars()


class Hub:
    """nanolan's calls to the Hub; `sleep`, `clock`, the client (`api`, `get`) and `patience_s` can be passed in.

    With `insist` a refusal is retried too: only a file's content, or that the file does not exist, ends the retries.
    `on_trouble` is called with the reason of each failed try.
    """

    def __init__(
        self,
        endpoint: str,
        token: Secret | None,
        *,
        patience_s: float = LAPTOP_PATIENCE_S,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        api: Any = None,
        get: Callable[..., Any] | None = None,
        stream: Callable[..., Any] | None = None,
        insist: bool = False,
        on_trouble: Callable[[str], object] = lambda why: None,
        bars: bool = False,
    ) -> None:
        self._insist = insist
        self._on_trouble = on_trouble
        self.endpoint = endpoint.rstrip("/")
        self.token = token
        self.patience_s = patience_s
        self._sleep = sleep
        self._clock = clock
        self._raw_token: str | bool = token.reveal() if token else False
        use_timeouts()
        if not bars:
            draw_no_bars()
        self.api = api or HfApi(endpoint=self.endpoint, token=self._raw_token)
        self._get = get or get_small
        self._stream = stream or (
            lambda url, headers: get_session().stream("GET", url, headers=headers)
        )

    def tree(self, repo: str, kind: str = "model", revision: str | None = None) -> Tree:
        """Revision and every file of a repo, in one request; NotFound if the repo does not exist."""
        info: Any = self._try(
            f"{kind} {repo}",
            lambda: self.api.repo_info(
                repo, repo_type=kind, revision=revision, files_metadata=True
            ),
        )
        files = {
            s.rfilename: PinnedFile(
                s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else None, s.blob_id or ""
            )
            for s in info.siblings or ()
        }
        name = getattr(info, "id", None) or repo
        return Tree(name if kind == "model" else repo, kind, info.sha, bool(info.private), files)

    def check_write(self, repo: str) -> None:
        """AuthProblem unless the token may write `repo`."""
        self._try(f"write access to {repo}", lambda: self.api.auth_check(repo, write=True))

    def whoami(self) -> dict[str, Any]:
        """The account of the token and the token's permissions; AuthProblem for a token that the Hub does not know."""
        return self._try("the account of HF_TOKEN", self.api.whoami)

    def jobs_hardware(self) -> list[Any]:
        """The machines that Hugging Face Jobs rents, with their prices."""
        return self._try("list of machines of Hugging Face Jobs", self.api.list_jobs_hardware)

    def create(self, repo: str) -> None:
        """Create a private model repo, unless it exists."""
        self._try(
            f"a new repo {repo}", lambda: self.api.create_repo(repo, private=True, exist_ok=True)
        )

    def read(self, repo: str, path: str, *, kind: str = "model", revision: str = "main") -> bytes:
        """A small file's bytes, in one request; NotFound if it does not exist."""
        url = hf_hub_url(repo, path, repo_type=kind, revision=revision, endpoint=self.endpoint)

        def get() -> bytes:
            answer = self._get(url, headers=build_hf_headers(token=self._raw_token))
            hidden = (
                self._insist
                and getattr(answer, "headers", {}).get("X-Error-Code") == "RepoNotFound"
            )
            if answer.status_code == 404 and not hidden:
                raise NotFound(f"{repo} has no file {path}")
            answer.raise_for_status()
            if len(answer.content) > SMALL_FILE:
                raise BadAnswer(f"{repo}/{path} is larger than {SMALL_FILE >> 20} MB")
            return answer.content

        return self._try(f"{repo}/{path}", get)

    def read_part(
        self, repo: str, path: str, start: int, size: int, *, revision: str, kind: str = "model"
    ) -> bytes:
        """Bytes `start` to `start + size` of a file of any size; BadAnswer if the server ignores the range."""
        url = hf_hub_url(repo, path, repo_type=kind, revision=revision, endpoint=self.endpoint)
        headers = build_hf_headers(token=self._raw_token) | {
            "Range": f"bytes={start}-{start + size - 1}"
        }

        def get() -> bytes:
            with self._stream(url, headers) as answer:
                if answer.status_code == SHORTER:
                    raise NotFound(f"{repo}/{path} has no byte {start}")
                answer.raise_for_status()
                if answer.status_code != 206:
                    raise BadAnswer(f"{repo}/{path}: the Hub does not send parts of the file")
                return _at_most(size, answer)

        return self._try(f"{repo}/{path}", get)

    def tail(self, repo: str, path: str, size: int, revision: str) -> bytes | None:
        """The last bytes (at most TAIL) of a file of `size` bytes; None if the server sends no parts. NotFound if it has no
        content, though it is listed."""
        try:
            start = max(0, size - TAIL)
            return self.read_part(repo, path, start, size - start, revision=revision)
        except BadAnswer:
            return None

    def commit(
        self,
        repo: str,
        add: dict[str, bytes | Path],
        message: str,
        delete: Iterable[str] = (),
        *,
        parent: str | None = None,
    ) -> str:
        """Add and remove files in one commit; returns its revision. Idempotent: same content, same tree.

        With `parent`, Conflict unless that is still the newest revision; also when an answer was lost and the commit was made.

        Bytes are masked, so that no secret of this process gets onto the Hub. Files are sent as they are."""
        deleted = tuple(delete)
        masked = {path: _masked(content) for path, content in add.items()}

        def send() -> str:
            # the Hub refuses to delete a missing file, and a repeat finds them deleted
            present = set(self.api.list_repo_files(repo)) if deleted else ()
            # new operations for each try: the client consumes them
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                CommitOperationAdd(path, content) for path, content in masked.items()
            ]
            operations += [CommitOperationDelete(path) for path in deleted if path in present]
            try:
                made = self.api.create_commit(
                    repo, operations, commit_message=hide(message), parent_commit=parent
                )
            except HfHubHTTPError as e:
                if parent and e.response.status_code == CHANGED:
                    raise Conflict(f"{repo} has changed since {parent[:8]}") from None
                raise
            return made.oid

        return self._try(f"commit to {repo}", lambda: with_timeout(COMMIT_S, send))

    def download(self, repo: str, path: str, folder: Path, *, kind: str, revision: str) -> None:
        """Download a file of any size to folder/<path>."""
        self._try(
            f"{repo}/{path}",
            lambda: hf_hub_download(
                repo,
                path,
                repo_type=kind,
                revision=revision,
                local_dir=folder,
                endpoint=self.endpoint,
                token=self._raw_token,
            ),
        )

    def _try(self, what: str, call: Callable[[], T]) -> T:
        """Retry `call()` until it succeeds, the Hub refuses it, or `patience_s` is over."""
        start = self._clock()
        failures = requested_waits = 0
        while True:
            try:
                return call()
            except FAILURES as e:
                if isinstance(e, OSError) and getattr(e, "filename", None):
                    raise  # a local file, not the network
                trouble, refusal, at_least, missing = failure_of(e, what, self.endpoint)
            if refusal and (missing or not self._insist):
                raise refusal
            self._on_trouble(f"{trouble.text} ({what})")
            failures += 1
            pause = max(at_least, jittered_s(backoff_s(failures, FIRST_WAIT_S, LONGEST_WAIT_S)))
            requested_waits += at_least > LONGEST_WAIT_S / 2
            end = start + self._patience_with(trouble)
            patient = self.patience_s >= LAPTOP_PATIENCE_S
            if trouble.kind == BUSY and 0 < requested_waits <= MAX_REQUESTED_WAITS and patient:
                end = max(end, self._clock() + pause + 1)
            if not self._wait(pause, end):
                took = (
                    f", tried for {self._patience_with(trouble):.0f} s"
                    if 0 < self.patience_s < math.inf
                    else ""
                )
                raise refusal or trouble.error(
                    f", for {what}{took}. {trouble.advice}" if trouble.again else f" ({what})"
                )

    def _patience_with(self, trouble: Trouble) -> float:
        """On a laptop: no retries for what only the user can fix, and few for a network that is down."""
        if self.patience_s > LAPTOP_PATIENCE_S or trouble.again and trouble.sent:
            return self.patience_s
        return min(self.patience_s, UNREACHED_S) if trouble.again else 0.0

    def _wait(self, pause: float, end: float) -> bool:
        """Sleep for `pause` in short naps; False as soon as the pause would end after `end`."""
        while pause > 0 and self._clock() + pause < end:
            self._sleep(min(NAP_S, pause))
            pause -= NAP_S
        return pause <= 0


def other_names(names: Mapping[str, tuple[str | None, str]]) -> list[str]:
    """A line for each setting whose repo has another name on the Hub now: renamed, transferred, or other letter case."""
    return [
        f"{asked} is named {name} on the Hub; this run uses that name. Set {setting}={name} in .env"
        for setting, (asked, name) in names.items()
        if asked and asked != name
    ]


def _masked(content: bytes | Path) -> bytes | Path:
    """Bytes with all secrets masked, even where they are not text; a file is left as it is."""
    if isinstance(content, Path):
        return content
    return hide(content.decode(errors="surrogateescape")).encode(errors="surrogateescape")
