"""Requests and answers against the OpenAPI file of Shadeform, which lies beside the checkout, not in it.

    from tests.sim.openapi import check_request, check_response, needs_openapi, Client

Where the file is absent nothing is checked; tests that are about the check itself are marked @needs_openapi.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema
import pytest
import requests

from nanolan.sim.shadeform.server import KEY

FILE = Path(__file__).resolve().parents[3] / "shared" / "facts" / "shadeform-openapi.json"
PREFIX = "/v1"
needs_openapi = pytest.mark.skipif(
    not FILE.exists(), reason=f"{FILE} is not here: nothing to check against"
)


@cache
def document() -> dict[str, Any]:
    """The OpenAPI file."""
    return json.loads(FILE.read_text())


def operation(method: str, path: str) -> dict[str, Any] | None:
    """The description of a call (path with or without /v1 and query), or None if there is no such call."""
    plain = urlsplit(path).path.removeprefix(PREFIX)
    exact_first = sorted(document()["paths"].items(), key=lambda row: "{" in row[0])
    for pattern, verbs in exact_first:
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", pattern), plain):
            return verbs.get(method.lower())
    return None


def check_schema(schema: dict[str, Any] | str, value: Any) -> None:
    """ValidationError if `value` is not of the schema (or of the component schema of that name)."""
    ref = {"$ref": f"#/components/schemas/{schema}"} if isinstance(schema, str) else schema
    whole = {**ref, "components": document()["components"]}
    jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker()).validate(
        value
    )


def check_request(method: str, path: str, body: Any = None) -> None:
    """AssertionError or ValidationError if this is not a call of the API with a body of its schema."""
    if not FILE.exists():
        return
    call = operation(method, path)
    assert call is not None, f"{method} {path} is not in the API"
    known = {p["name"]: p["schema"] for p in call.get("parameters", []) if p["in"] == "query"}
    for name, value in parse_qsl(urlsplit(path).query):
        assert name in known, f"{path}: no parameter {name}"
        check_schema(
            known[name], value.lower() == "true" if known[name]["type"] == "boolean" else value
        )
    content = call.get("requestBody", {}).get("content", {})
    if content:
        check_schema(content["application/json"]["schema"], body)
    else:
        assert not body, f"{method} {path} takes no body"


def check_response(method: str, path: str, status: int, body: Any) -> None:
    """The same for an answer; `body` is the parsed JSON, None or '' for an empty one, text as it is."""
    if not FILE.exists():
        return
    call = operation(method, path)
    if call is None:
        assert status in (401, 404, 405), (
            f"{method} {path} is not in the API, yet answered {status}"
        )
        return
    described = call["responses"].get(str(status), call["responses"].get(f"{status // 100}XX"))
    if described is None:
        assert 400 <= status < 500, f"{method} {path}: {status} is not described"
    elif "content" in described:
        check_schema(described["content"]["application/json"]["schema"], body)
    elif status == 200:
        assert not body, f"{method} {path}: 200 comes with an empty body"


class Client:
    """A plain client for a Shadeform at `url` that checks what it sends and what it gets."""

    def __init__(self, url: str, key: str = KEY) -> None:
        self.url, self.session = url, requests.Session()
        self.session.trust_env = False
        if key:
            self.session.headers["X-API-KEY"] = key

    def call(
        self, method: str, path: str, body: Any = None, *, bad: bool = False, timeout_s: float = 20
    ) -> tuple[int, Any]:
        """(status, JSON or text or None); `bad` for requests that are wrong on purpose."""
        if not bad:
            check_request(method, path, body)
        got = self.session.request(method, self.url + path, json=body, timeout=timeout_s)
        json_like = got.headers.get("Content-Type") == "application/json"
        answer = got.json() if json_like else got.text or None
        check_response(method, path, got.status_code, answer)
        return got.status_code, answer

    def get(self, path: str) -> Any:
        """The body of a GET that must be 200."""
        status, body = self.call("GET", path)
        assert status == 200, (status, body)
        return body

    def post(self, path: str, body: Any = None) -> Any:
        """The body of a POST that must be 200."""
        status, answer = self.call("POST", path, body)
        assert status == 200, (status, answer)
        return answer

    def close(self) -> None:
        self.session.close()
