"""What went wrong with a call to the Hub: in the Hub's own words, and whether the same call may work later. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, NamedTuple

import httpx2
import msgspec
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from nanolan.errors import ApiProblem, AuthProblem, NotFound
from nanolan.net.errors import DOWN, HUB, SETTING, Trouble, of_answer, of_exception
from nanolan.redact import short
from nanolan.shadeform.client import retry_after_s

TOKENS_URL = "https://huggingface.co/settings/tokens"
STORAGE_URL = "https://huggingface.co/settings/billing"
STATUS_LATER = (409, 412)  # of two writers at once
QUOTA = re.compile(r"storage|quota|limit reached|payment|exceeded", re.I)
BAD_README = "Invalid metadata in README.md"  # how the library begins what the Hub's check says
# What a call to the Hub raises when there is no answer, or one that cannot be read; ConnectionError: hf-xet
FAILURES = (
    httpx2.HTTPError,
    httpx2.InvalidURL,
    httpx2.StreamError,
    OSError,
    ImportError,
    FutureTimeout,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


class Failure(NamedTuple):
    """Why a call failed. `no` is the Hub's own refusal, which another try at once would meet again; else None."""

    trouble: Trouble
    no: ApiProblem | AuthProblem | None = None
    at_least_s: float = 0.0  # to wait before another try
    missing: bool = False  # the Hub says for sure that there is no such file or revision


def failure_of(e: Any, what: str, endpoint: str) -> Failure:
    """What an exception of a call for `what` means."""
    if (
        isinstance(e, LocalEntryNotFoundError) and e.__cause__
    ):  # of a download: what really happened is its cause
        return failure_of(e.__cause__, what, endpoint)
    if isinstance(e, (HfHubHTTPError, httpx2.HTTPStatusError)):
        return _of_answer(e, what)
    if isinstance(e, ValueError) and str(e).startswith(BAD_README):
        text = f"the Hub refused {what}: {short(' '.join(str(e).split()))}"
        return Failure(Trouble(DOWN, text), ApiProblem(text))
    if isinstance(e, (httpx2.HTTPError, httpx2.InvalidURL, OSError, ImportError, FutureTimeout)):
        return Failure(of_exception(e, HUB, endpoint))
    trouble = of_answer(HUB, 200, {}, getattr(e, "doc", "")) or of_exception(
        e, HUB, endpoint
    )  # 200 with a proxy's page, or half
    return Failure(
        trouble
        if trouble.kind == SETTING
        else Trouble(DOWN, f"the Hub gave an answer that cannot be read, {type(e).__name__}")
    )


def _of_answer(e: Any, what: str) -> Failure:
    status = getattr(e.response, "status_code", 0)
    said, wait_s = sentence(e), told_wait_s(e.response.headers)
    if trouble := of_answer(HUB, status, e.response.headers, page_of(e.response)):
        return Failure(trouble, None, wait_s)
    why = f"HTTP {status}{said and ': ' + said}"
    if status in STATUS_LATER:
        return Failure(Trouble(DOWN, f"the Hub is busy ({why})"), None, wait_s)
    no = _refusal(e, what, status, why, said)
    return Failure(
        Trouble(DOWN, str(no)),
        no,
        wait_s,
        isinstance(e, (EntryNotFoundError, RevisionNotFoundError)),
    )


def told_wait_s(headers: Mapping[str, str]) -> float:
    """Seconds to wait as an answer asks for it: by Retry-After, or by the Hub's `RateLimit: "api";r=0;t=55`."""
    limit = re.search(r";\s*t=(\d{1,4})\b", headers.get("RateLimit") or "")
    return retry_after_s(headers.get("Retry-After") or (limit[1] if limit else None))


def page_of(answer: Any) -> str:
    try:
        return str(answer.text)[:4096]
    except httpx2.StreamError:  # it was not read
        return ""


def _refusal(e: Exception, what: str, status: int, why: str, said: str) -> ApiProblem | AuthProblem:
    if isinstance(e, (EntryNotFoundError, RevisionNotFoundError)):
        return NotFound(f"the Hub has no {what}")
    if isinstance(e, RepositoryNotFoundError) or status == 404:
        return NotFound(f"the Hub has no {what}, or HF_TOKEN may not see it")
    if status in (402, 403, 413) and QUOTA.search(said):
        return ApiProblem(
            f"the Hub refused {what}: {why}. Make room, or a larger plan: {STORAGE_URL}"
        )
    if status in (401, 403):
        return AuthProblem(
            f"the Hub refused HF_TOKEN ({why}) for {what}. Make one that may write the repo: {TOKENS_URL}"
        )
    return ApiProblem(f"the Hub refused {what}: {why}")


def sentence(e: Any) -> str:
    """What the service itself said: its JSON, its header, or the start of its page; "" when it said nothing."""
    header = short(e.response.headers.get("X-Error-Message") or "")
    try:
        page = e.response.text
        told = msgspec.json.decode(page, type=dict)
        return short(str(told.get("error") or told.get("message") or "")) or header
    except httpx2.StreamError:  # of a download: not read
        return header
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError):
        return header or short(re.sub(r"<[^>]*>", " ", page[:2000]), 120)
