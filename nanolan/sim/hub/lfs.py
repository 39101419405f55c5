"""Uploads of large files to the local Hub: git LFS, whole or in parts, or Xet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from nanolan.sim.hub.accounts import KIND, REPO_ID, repo_of
from nanolan.sim.hub.http import Request, route
from nanolan.sim.hub.read import PREFIX
from nanolan.sim.hub.repo import Refusal
from nanolan.sim.hub.store import read_chunks

TOKEN_S = 3600
OBJECT = r"/__lfs__/([0-9a-f]{64})"


def batch(request: Request, prefix: str | None, repo_id: str) -> None:
    """For each object: the address to PUT it to (no `actions` if it is stored already), or to get it from."""
    data = request.json()
    upload = data["operation"] == "upload"
    repo_of(request, (prefix or "models").strip("/"), repo_id, write=upload)
    if upload:
        _need_room(request)
    parts_over = request.hub.multipart_over if "multipart" in data.get("transfers", []) else 0
    verify = f"{request.hub.url}/{prefix or ''}{repo_id}.git/info/lfs/objects/verify"
    objects, multipart = [], False
    for o in data["objects"]:
        here = request.hub.store.size_of(o["oid"]) is not None
        in_parts = bool(upload and not here and parts_over and o["size"] > parts_over)
        multipart |= in_parts
        answer = (
            _upload(request, o["oid"], o["size"], verify, in_parts, here)
            if upload
            else _download(request, o["oid"], here)
        )
        objects.append({"oid": o["oid"], "size": o["size"]} | answer)
    request.reply(
        200,
        {"transfer": "multipart" if multipart else "basic", "objects": objects},
        content_type="application/vnd.git-lfs+json",
    )


def _need_room(request: Request) -> None:
    if request.hub.storage_full:
        raise Refusal(
            403,
            "Private repository storage limit reached, please upgrade your plan to increase it.",
        )


def _upload(
    request: Request, oid: str, size: int, verify: str, in_parts: bool, here: bool
) -> dict[str, Any]:
    if here:
        return {}
    base = f"{request.hub.url}/__lfs__/{oid}"
    if not in_parts:
        return {"actions": {"upload": {"href": f"{base}?size={size}"}, "verify": {"href": verify}}}
    parts = -(-size // request.hub.part_size)
    header = {"chunk_size": str(request.hub.part_size)} | {
        f"{i:05d}": f"{base}/part/{i}" for i in range(1, parts + 1)
    }
    return {
        "actions": {
            "upload": {"href": f"{base}/complete", "header": header},
            "verify": {"href": verify},
        }
    }


def _download(request: Request, oid: str, here: bool) -> dict[str, Any]:
    if here:
        return {"actions": {"download": {"href": f"{request.hub.cdn_url}/__cdn__/{oid}"}}}
    return {"error": {"code": 404, "message": "Object does not exist"}}


def put_whole(request: Request, oid: str) -> None:
    """Store a whole object; 400 unless its bytes have the hash and the size of its address."""
    request.hub.store.put(request.body, oid, int(request.query["size"][0]))
    request.reply(200)


def put_part(request: Request, oid: str, number: str) -> None:
    """Store one part of an object; the client lists its ETag when it completes the object."""
    sha256, _ = request.hub.store.put(request.body)
    request.hub.parts[oid, int(number)] = sha256
    request.reply(200, headers={"ETag": f'"{sha256[:32]}"'})


def complete(request: Request, oid: str) -> None:
    """Join the parts into the object; 400 if the result has another hash."""
    numbers = [p["partNumber"] for p in request.json()["parts"]]
    parts = [request.hub.store.object(request.hub.parts[oid, n]) for n in numbers]

    def joined() -> Iterator[bytes]:
        for part in parts:
            yield from read_chunks(part)

    request.hub.store.put(joined(), oid)
    for n, part in zip(numbers, parts, strict=True):
        request.hub.parts.pop((oid, n), None)
        if part.name != oid:  # a single part is the object itself
            part.unlink(missing_ok=True)  # equal parts share one file
    request.reply(200, {})


def verify(request: Request, prefix: str | None, repo_id: str) -> None:
    """200 if the object is stored with its full size."""
    data = request.json()
    if request.hub.store.size_of(data["oid"]) != data["size"]:
        raise Refusal(404, "object missing or of the wrong size")
    request.reply(200, {"message": "ok"})


def xet_write_token(request: Request, kind: str, repo_id: str, rev: str) -> None:
    """The address of one upload: a new folder. 404 with Xet off, on which clients with hf-xet fail."""
    repo_of(request, kind, repo_id, write=True)
    _need_room(request)
    xet = request.hub.store.xet
    if xet is None:
        raise Refusal(404, "Xet is off on this Hub: set HF_HUB_DISABLE_XET=1")
    _reply_token(request, xet.write_url())


def xet_read_token(request: Request, kind: str, repo_id: str, rev: str) -> None:
    """The address to read one file from; the query, written by `resolve`, names the file."""
    repo_of(request, kind, repo_id)
    xet = request.hub.store.xet
    url = xet and xet.read_url(request.query["sha256"][0])
    if not url:
        raise Refusal(404, "no such file in Xet storage")
    _reply_token(request, url)


def _reply_token(request: Request, url: str) -> None:
    expires = int(time.time()) + TOKEN_S
    request.reply(
        200,
        {"casUrl": url, "accessToken": "loopback", "exp": expires},
        {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "loopback", "X-Xet-Token-Expiration": expires},
    )


ROUTES = [
    route("GET", rf"/api/{KIND}/{REPO_ID}/xet-write-token/([^/]+)", xet_write_token),
    route("GET", rf"/api/{KIND}/{REPO_ID}/xet-read-token/([^/]+)", xet_read_token),
    route("POST", rf"{PREFIX}{REPO_ID}\.git/info/lfs/objects/batch", batch),
    route("POST", rf"{PREFIX}{REPO_ID}\.git/info/lfs/objects/verify", verify),
    route("PUT", OBJECT, put_whole),
    route("PUT", OBJECT + r"/part/(\d+)", put_part),
    route("POST", OBJECT + "/complete", complete),
]
