"""The Hugging Face Hub, through its own client: with time-outs, our retry, and one error tree.

The client alone fails at once on a 503 to a commit and waits for ever on a stalled upload; so every call
here is tried again until `patience_s` is over. Big files go through nanolan/transfer.py.
"""
from __future__ import annotations

import os
import random
import re
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_url, set_client_factory
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import build_hf_headers, get_session
from huggingface_hub.utils._http import hf_request_event_hook  # not exported; without it requests lack their id

from nanolan.errors import ApiProblem, AuthProblem, BadAnswer, NotFound
from nanolan.neterrors import BUSY, DOWN, HUB, SETTING, Trouble, of_answer, of_exception
from nanolan.plan import Pinned, PinnedFile, check_names
from nanolan.secret import Secret, hide, short
from nanolan.shadeform import retry_after_s
from nanolan.times import SERVICE_CLOCK

LAPTOP_PATIENCE_S = 45.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
UNREACHED_S = 8.0                # with a host that cannot be found or refuses the connection, on a laptop
MOST_TOLD = 3                    # waits as long as the Hub asks for, beyond the patience of a laptop
COMMIT_S = 120.0                 # a commit of small files
SMALL_FILE = 16 << 20            # most bytes that `read` takes into memory
NO_PROXY = {f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")}
TOKENS_URL = "https://huggingface.co/settings/tokens"

T = TypeVar("T")


@dataclass(frozen=True)
class Tree:
    """All files of a repo at one revision."""

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
        return Pinned(self.repo, self.kind, self.revision, tuple(self.files[p] for p in wanted), proven)


@lru_cache(maxsize=1)   # once: setting it again closes the connections that other threads are using
def use_timeouts(read_s: float = 60.0) -> None:
    """Give the Hub client of this process time-outs (it has none); loopback bypasses proxies.

    HTTPS_PROXY and SSL_CERT_FILE count as everywhere; REQUESTS_CA_BUNDLE, which this client does not know, too.
    """
    bundle = os.environ.get("REQUESTS_CA_BUNDLE")
    try:
        verify = ssl.create_default_context(cafile=bundle) if bundle and Path(bundle).is_file() else True
    except ssl.SSLError as e:
        raise of_exception(e, HUB, HUB.usual).error() from None
    set_client_factory(lambda: httpx2.Client(
        event_hooks={"request": [hf_request_event_hook], "response": [read_date]}, follow_redirects=True,
        timeout=httpx2.Timeout(30, connect=10, read=read_s), mounts=NO_PROXY, verify=verify))


def read_date(answer: httpx2.Response) -> None:
    """A machine that holds no Shadeform key knows the time by the Hub's answers alone."""
    SERVICE_CLOCK.learn("the Hub", answer.headers.get("Date"), answer.headers.get("Age"))


def within(seconds: float, call: Callable[[], T]) -> T:
    """`call()`, or TimeoutError after `seconds`: Xet knows no time-outs. The call itself may then still end, unheard."""
    return begin(call).result(seconds)


def begin(call: Callable[[], T]) -> Future[T]:
    """The answer of a call that runs in a thread of its own, which nobody waits for at the program's end."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as e:
            answer.set_exception(e)
    Thread(target=run, daemon=True).start()   # a pool would be waited for
    return answer


def get_small(url: str, headers: dict[str, str]) -> httpx2.Response:
    """The answer to a GET, and no more of it than a byte too much for a small file."""
    data = bytearray()
    with get_session().stream("GET", url, headers=headers) as answer:
        for chunk in answer.iter_bytes(1 << 16):
            data += chunk
            if len(data) > SMALL_FILE:
                break
    kept = {k: v for k, v in answer.headers.items() if k.lower() == "retry-after"}
    return httpx2.Response(answer.status_code, headers=kept, content=bytes(data), request=answer.request)


class Hub:
    """The calls we make to the Hub; `sleep`, `clock`, the client (`api`, `get`) and `patience_s` can be passed in."""

    def __init__(self, endpoint: str, token: Secret | None, *, patience_s: float = LAPTOP_PATIENCE_S,
                 sleep: Callable[[float], object] = time.sleep, clock: Callable[[], float] = time.monotonic,
                 api: Any = None, get: Callable[..., Any] | None = None) -> None:
        self.endpoint, self.token, self.patience_s = endpoint.rstrip("/"), token, patience_s
        self._sleep, self._clock = sleep, clock
        self._raw_token: str | bool = token.reveal() if token else False
        use_timeouts()
        self.api = api or HfApi(endpoint=self.endpoint, token=self._raw_token)
        self._get = get or get_small

    def tree(self, repo: str, kind: str = "model", revision: str | None = None) -> Tree:
        """Revision and every file of a repo, in one round trip; NotFound when there is no such repo."""
        info: Any = self._try(f"{kind} {repo}", lambda: self.api.repo_info(
            repo, repo_type=kind, revision=revision, files_metadata=True))
        files = {s.rfilename: PinnedFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else None, s.blob_id or "")
                 for s in info.siblings or ()}
        return Tree(repo, kind, info.sha, bool(info.private), files)

    def check_write(self, repo: str) -> None:
        """AuthProblem unless the token may write `repo`."""
        self._try(f"write access to {repo}", lambda: self.api.auth_check(repo, write=True))

    def whoami(self) -> dict[str, Any]:
        """The account of the token and what the token may do, as the Hub tells it; AuthProblem for a token it does not know."""
        return self._try("the account of HF_TOKEN", self.api.whoami)

    def create(self, repo: str) -> None:
        """Make a private model repo; nothing happens when it is there."""
        self._try(f"a new repo {repo}", lambda: self.api.create_repo(repo, private=True, exist_ok=True))

    def read(self, repo: str, path: str, *, kind: str = "model", revision: str = "main") -> bytes:
        """A small file's bytes, in one round trip; NotFound when there is none."""
        url = hf_hub_url(repo, path, repo_type=kind, revision=revision, endpoint=self.endpoint)

        def get() -> bytes:
            answer = self._get(url, headers=build_hf_headers(token=self._raw_token))
            if answer.status_code == 404:
                raise NotFound(f"{repo} has no file {path}")
            answer.raise_for_status()
            if len(answer.content) > SMALL_FILE:
                raise BadAnswer(f"{repo}/{path} is larger than {SMALL_FILE >> 20} MB")
            return answer.content
        return self._try(f"{repo}/{path}", get)

    def read_part(self, repo: str, path: str, start: int, size: int, *, revision: str, kind: str = "model") -> bytes:
        """Bytes `start` to `start + size` of a file, large or not; BadAnswer from a server that can only send all of it."""
        url = hf_hub_url(repo, path, repo_type=kind, revision=revision, endpoint=self.endpoint)
        headers = build_hf_headers(token=self._raw_token) | {"Range": f"bytes={start}-{start + size - 1}"}

        def get() -> bytes:
            with get_session().stream("GET", url, headers=headers) as answer:
                answer.raise_for_status()
                if answer.status_code != 206:
                    raise BadAnswer(f"{repo}/{path}: the Hub sends no part of it")
                return answer.read()
        return self._try(f"{repo}/{path}", get)

    def commit(self, repo: str, add: dict[str, bytes | Path], message: str, delete: Iterable[str] = ()) -> str:
        """Add and remove files in one commit; returns its revision. Safe to repeat: same content, same tree.

        Text that was made here (bytes) is masked: no secret of this process gets onto the Hub. Files go as they are."""
        gone, masked = tuple(delete), {path: _masked(content) for path, content in add.items()}

        def send() -> str:
            there = set(self.api.list_repo_files(repo)) if gone else ()   # a repeat finds them gone: that would be refused
            operations: list[CommitOperationAdd | CommitOperationDelete] = [   # the client uses them up: new ones each try
                CommitOperationAdd(path, content) for path, content in masked.items()]
            operations += [CommitOperationDelete(path) for path in gone if path in there]
            return self.api.create_commit(repo, operations, commit_message=hide(message)).oid
        return self._try(f"commit to {repo}", lambda: within(COMMIT_S, send))

    def start_job(self, job: Any, secrets: dict[str, str]) -> tuple[str, str]:
        """(id, address) of a new job at Hugging Face; with no patience it is sent once."""
        started: Any = self._try("a job (its token must be allowed to start jobs, its account must have credit)",
                                 lambda: self.api.run_job(image=job.image, command=list(job.command), env=job.env, secrets=secrets,
                                                          flavor=job.flavor, timeout=job.timeout_s, attempts=job.attempts,
                                                          name=job.name))
        return started.id, started.url

    def _try(self, what: str, call: Callable[[], T]) -> T:
        """`call()` until it works, the answer is a definite no, or patience is over."""
        start, wait, told = self._clock(), FIRST_WAIT_S, 0
        while True:
            trouble, at_least = None, 0.0
            try:
                return call()
            except (HfHubHTTPError, httpx2.HTTPStatusError) as e:
                status = getattr(e.response, "status_code", 0)
                trouble = of_answer(HUB, status, e.response.headers, _body(e.response))
                if trouble is None and status not in (409, 412):
                    raise self._refusal(what, e, status) from None
                at_least = told_wait_s(e.response.headers)
            except (httpx2.RequestError, httpx2.InvalidURL, OSError, ImportError, FutureTimeout) as e:  # ConnectionError: hf-xet
                if isinstance(e, OSError) and e.filename:
                    raise                                                    # a file here, not the network
                trouble = of_exception(e, HUB, self.endpoint)
            except (ValueError, LookupError, TypeError, AttributeError) as e:   # 200 with a proxy's page, or half of an answer
                trouble = of_answer(HUB, 200, {}, getattr(e, "doc", "")) or of_exception(e, HUB, self.endpoint)
                if trouble.kind != SETTING:
                    trouble = Trouble(DOWN, f"the Hub gave an answer that cannot be read, {type(e).__name__}")
            trouble = trouble or Trouble(DOWN, f"the Hub is busy (HTTP {status})")
            pause = max(at_least, wait * (0.5 + random.random() / 2))   # noqa: S311  # jitter, not a secret
            told += at_least > LONGEST_WAIT_S / 2
            over = self._clock() + pause >= start + self._patience_with(trouble)
            if over and not (trouble.kind == BUSY and 0 < told <= MOST_TOLD and self.patience_s >= LAPTOP_PATIENCE_S):
                raise trouble.error(f", for {what}, tried for {self._patience_with(trouble):.0f} s. {trouble.advice}"
                                    if trouble.again else f" ({what})")
            self._sleep(pause)
            wait = min(wait * 2, LONGEST_WAIT_S)

    def _patience_with(self, trouble: Trouble) -> float:
        """On a laptop nobody waits for what only its user can change, or long for a network that is not there."""
        if self.patience_s > LAPTOP_PATIENCE_S or trouble.again and trouble.sent:
            return self.patience_s
        return min(self.patience_s, UNREACHED_S) if trouble.again else 0.0

    def _refusal(self, what: str, e: Exception, status: int) -> ApiProblem | AuthProblem:
        if isinstance(e, (EntryNotFoundError, RevisionNotFoundError)):
            return NotFound(f"the Hub has no {what}")
        if isinstance(e, RepositoryNotFoundError) or status == 404:
            return NotFound(f"the Hub has no {what}, or HF_TOKEN may not see it")
        if status in (401, 403):
            said = short(getattr(e, "server_message", "") or "", 150)
            return AuthProblem(f"the Hub refused HF_TOKEN (HTTP {status}{f': {said}' if said else ''}) for {what}. "
                               f"Make one that may write the repo: {TOKENS_URL}")
        return ApiProblem(f"the Hub refused {what}: HTTP {status} {short(str(e))}")


def told_wait_s(headers: Mapping[str, str]) -> float:
    """Seconds to wait as an answer asks for it: by Retry-After, or by the Hub's `RateLimit: "api";r=0;t=55`."""
    limit = re.search(r";\s*t=(\d{1,4})\b", headers.get("RateLimit") or "")
    return retry_after_s(headers.get("Retry-After") or (limit[1] if limit else None))


def _body(answer: Any) -> str:
    try:
        return str(answer.text)[:4096]
    except httpx2.StreamError:               # it was not read
        return ""


def _masked(content: bytes | Path) -> bytes | Path:
    """Bytes without any secret, also where not all of them are text; a file is left as it is."""
    if isinstance(content, Path):
        return content
    return hide(content.decode(errors="surrogateescape")).encode(errors="surrogateescape")
