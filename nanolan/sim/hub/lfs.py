"""The local Hub's loading dock: where the bytes of large files come in (git LFS, whole or in parts; or Xet)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from nanolan.sim.hub.accounts import KIND, RID, repo_of
from nanolan.sim.hub.http import Request, route
from nanolan.sim.hub.read import PREFIX
from nanolan.sim.hub.repo import Refusal
from nanolan.sim.hub.store import read_chunks

TOKEN_S = 3600
OBJECT = r"/__lfs__/([0-9a-f]{64})"


def batch(ask: Request, prefix: str | None, rid: str) -> None:
    """For each object: where to PUT it (no `actions`: it is here already), or where to get it."""
    d = ask.json()
    upload = d["operation"] == "upload"
    repo_of(ask, (prefix or "models").strip("/"), rid, write=upload)
    if upload:
        _need_room(ask)
    parts_over = ask.hub.multipart_over if "multipart" in d.get("transfers", []) else 0
    verify = f"{ask.hub.url}/{prefix or ''}{rid}.git/info/lfs/objects/verify"
    objects, multipart = [], False
    for o in d["objects"]:
        here = ask.hub.store.size_of(o["oid"]) is not None
        in_parts = bool(upload and not here and parts_over and o["size"] > parts_over)
        multipart |= in_parts
        answer = (
            _upload(ask, o["oid"], o["size"], verify, in_parts, here)
            if upload
            else _download(ask, o["oid"], here)
        )
        objects.append({"oid": o["oid"], "size": o["size"]} | answer)
    ask.reply(
        200,
        {"transfer": "multipart" if multipart else "basic", "objects": objects},
        content_type="application/vnd.git-lfs+json",
    )


def _need_room(ask: Request) -> None:
    if ask.hub.storage_full:
        raise Refusal(
            403,
            "Private repository storage limit reached, please upgrade your plan to increase it.",
        )


def _upload(
    ask: Request, oid: str, size: int, verify: str, in_parts: bool, here: bool
) -> dict[str, Any]:
    if here:
        return {}
    base = f"{ask.hub.url}/__lfs__/{oid}"
    if not in_parts:
        return {"actions": {"upload": {"href": f"{base}?size={size}"}, "verify": {"href": verify}}}
    parts = -(-size // ask.hub.part_size)
    header = {"chunk_size": str(ask.hub.part_size)} | {
        f"{i:05d}": f"{base}/part/{i}" for i in range(1, parts + 1)
    }
    return {
        "actions": {
            "upload": {"href": f"{base}/complete", "header": header},
            "verify": {"href": verify},
        }
    }


def _download(ask: Request, oid: str, here: bool) -> dict[str, Any]:
    if here:
        return {"actions": {"download": {"href": f"{ask.hub.cdn_url}/__cdn__/{oid}"}}}
    return {"error": {"code": 404, "message": "Object does not exist"}}


def put_whole(ask: Request, oid: str) -> None:
    """Take a whole object; 400 unless its bytes have the hash and the size of its address."""
    ask.hub.store.put(ask.body, oid, int(ask.query["size"][0]))
    ask.reply(200)


def put_part(ask: Request, oid: str, number: str) -> None:
    """Take one part of an object; its ETag goes into the list that completes the object."""
    sha256, _ = ask.hub.store.put(ask.body)
    ask.hub.parts[oid, int(number)] = sha256
    ask.reply(200, headers={"ETag": f'"{sha256[:32]}"'})


def complete(ask: Request, oid: str) -> None:
    """Join the parts into the object; 400 if the result has another hash."""
    numbers = [p["partNumber"] for p in ask.json()["parts"]]
    parts = [ask.hub.store.object(ask.hub.parts[oid, n]) for n in numbers]

    def joined() -> Iterator[bytes]:
        for part in parts:
            yield from read_chunks(part)

    ask.hub.store.put(joined(), oid)
    for n, part in zip(numbers, parts, strict=True):
        ask.hub.parts.pop((oid, n), None)
        if part.name != oid:  # a file of one part is its own whole
            part.unlink(missing_ok=True)  # equal parts share one file
    ask.reply(200, {})


def verify(ask: Request, prefix: str | None, rid: str) -> None:
    """200 if the object is here, whole."""
    d = ask.json()
    if ask.hub.store.size_of(d["oid"]) != d["size"]:
        raise Refusal(404, "object missing or of the wrong size")
    ask.reply(200, {"message": "ok"})


def xet_write_token(ask: Request, kind: str, rid: str, rev: str) -> None:
    """Where one upload goes: a fresh folder. 404 with Xet off, which clients with hf-xet do not survive."""
    repo_of(ask, kind, rid, write=True)
    _need_room(ask)
    xet = ask.hub.store.xet
    if xet is None:
        raise Refusal(404, "Xet is off on this Hub: set HF_HUB_DISABLE_XET=1")
    _reply_token(ask, xet.place_to_write())


def xet_read_token(ask: Request, kind: str, rid: str, rev: str) -> None:
    """Where one file can be read; the file is named by the query, as `resolve` wrote it."""
    repo_of(ask, kind, rid)
    xet = ask.hub.store.xet
    url = xet and xet.place_to_read(ask.query["sha256"][0])
    if not url:
        raise Refusal(404, "no such file in Xet storage")
    _reply_token(ask, url)


def _reply_token(ask: Request, url: str) -> None:
    expires = int(time.time()) + TOKEN_S
    ask.reply(
        200,
        {"casUrl": url, "accessToken": "loopback", "exp": expires},
        {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "loopback", "X-Xet-Token-Expiration": expires},
    )


ROUTES = [
    route("GET", rf"/api/{KIND}/{RID}/xet-write-token/([^/]+)", xet_write_token),
    route("GET", rf"/api/{KIND}/{RID}/xet-read-token/([^/]+)", xet_read_token),
    route("POST", rf"{PREFIX}{RID}\.git/info/lfs/objects/batch", batch),
    route("POST", rf"{PREFIX}{RID}\.git/info/lfs/objects/verify", verify),
    route("PUT", OBJECT, put_whole),
    route("PUT", OBJECT + r"/part/(\d+)", put_part),
    route("POST", OBJECT + "/complete", complete),
]
