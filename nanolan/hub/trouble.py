"""Explains a failed call to the Hub: the Hub's own message, and whether a retry may succeed. Pure."""

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
STATUS_LATER = (409, 412)  # two writers at once: retry
QUOTA = re.compile(r"storage|quota|limit reached|payment|exceeded", re.I)
BAD_README = "Invalid metadata in README.md"  # start of huggingface_hub's error message
# Raised when there is no answer, or an unreadable one; hf-xet raises ConnectionError, an OSError
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
    """Why a call failed. `refusal` is the Hub's refusal, which an immediate retry would meet again, or None."""

    trouble: Trouble
    refusal: ApiProblem | AuthProblem | None = None
    at_least_s: float = 0.0  # wait before a retry
    missing: bool = False  # the Hub confirms that the file or revision does not exist


def failure_of(e: Any, what: str, endpoint: str) -> Failure:
    """The meaning of an exception that was raised by a call for `what`."""
    if (
        isinstance(e, LocalEntryNotFoundError) and e.__cause__
    ):  # of a download: the cause explains it
        return failure_of(e.__cause__, what, endpoint)
    if isinstance(e, (HfHubHTTPError, httpx2.HTTPStatusError)):
        return _of_answer(e, what)
    if isinstance(e, ValueError) and str(e).startswith(BAD_README):
        text = f"the Hub refused {what}: {short(' '.join(str(e).split()))}"
        return Failure(Trouble(DOWN, text), ApiProblem(text))
    if isinstance(e, (httpx2.HTTPError, httpx2.InvalidURL, OSError, ImportError, FutureTimeout)):
        return Failure(of_exception(e, HUB, endpoint))
    # a 200 with a proxy's page, or a truncated answer
    trouble = of_answer(HUB, 200, {}, getattr(e, "doc", "")) or of_exception(e, HUB, endpoint)
    return Failure(
        trouble
        if trouble.kind == SETTING
        else Trouble(DOWN, f"the Hub gave an unreadable answer, {type(e).__name__}")
    )


def _of_answer(e: Any, what: str) -> Failure:
    status = getattr(e.response, "status_code", 0)
    said = message_of(e)
    wait_s = requested_wait_s(e.response.headers)
    if trouble := of_answer(HUB, status, e.response.headers, body_of(e.response)):
        return Failure(trouble, None, wait_s)
    why = f"HTTP {status}{said and ': ' + said}"
    if status in STATUS_LATER:
        return Failure(Trouble(DOWN, f"the Hub is busy ({why})"), None, wait_s)
    refusal = _refusal(e, what, status, why, said)
    return Failure(
        Trouble(DOWN, str(refusal)),
        refusal,
        wait_s,
        isinstance(e, (EntryNotFoundError, RevisionNotFoundError)),
    )


def requested_wait_s(headers: Mapping[str, str]) -> float:
    """Seconds to wait that an answer asks for, in Retry-After or in the Hub's `RateLimit: "api";r=0;t=55`."""
    limit = re.search(r";\s*t=(\d{1,4})\b", headers.get("RateLimit") or "")
    return retry_after_s(headers.get("Retry-After") or (limit[1] if limit else None))


def body_of(answer: Any) -> str:
    try:
        return str(answer.text)[:4096]
    except httpx2.StreamError:  # the body was not read
        return ""


def _refusal(e: Exception, what: str, status: int, why: str, said: str) -> ApiProblem | AuthProblem:
    if isinstance(e, (EntryNotFoundError, RevisionNotFoundError)):
        return NotFound(f"the Hub has no {what}")
    if isinstance(e, RepositoryNotFoundError) or status == 404:
        return NotFound(f"the Hub has no {what}, or HF_TOKEN has no access to it")
    if status in (402, 403, 413) and QUOTA.search(said):
        return ApiProblem(
            f"the Hub refused {what}: {why}. Delete files or get a larger plan: {STORAGE_URL}"
        )
    if status in (401, 403):
        return AuthProblem(
            f"the Hub refused HF_TOKEN ({why}) for {what}. Create a token with write access to the repo: {TOKENS_URL}"
        )
    return ApiProblem(f"the Hub refused {what}: {why}")


def message_of(e: Any) -> str:
    """The message of the service: from its JSON, its header, or the start of its page; "" if there is none."""
    header = short(e.response.headers.get("X-Error-Message") or "")
    try:
        page = e.response.text
        answer = msgspec.json.decode(page, type=dict)
        return short(str(answer.get("error") or answer.get("message") or "")) or header
    except httpx2.StreamError:  # of a download: the body was not read
        return header
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError):
        return header or short(re.sub(r"<[^>]*>", " ", page[:2000]), 120)
