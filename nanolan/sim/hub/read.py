"""Reads from the local Hub: a repository's listing, its history, and the files themselves."""

from __future__ import annotations

import hashlib
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

from nanolan.sim.hub.accounts import KIND, REPO_ID, repo_of, summary
from nanolan.sim.hub.http import Request, route
from nanolan.sim.hub.repo import Blob, Refusal, lfs_pointer

PREFIX = r"/(datasets/|spaces/)?"


# ---- listings


def info(request: Request, kind: str, repo_id: str, rev: str | None) -> None:
    """A repository at a revision, with the names of its files; their sizes and hashes with ?blobs=true."""
    repo = repo_of(request, kind, repo_id)
    commit = repo.at(rev or "main")
    siblings = [
        {"rfilename": path} | (_blob_details(blob) if "blobs" in request.query else {})
        for path, blob in sorted(commit.files.items())
    ]
    request.reply(
        200, summary(repo) | {"sha": commit.oid, "siblings": siblings, "lastModified": commit.date}
    )


def refs(request: Request, kind: str, repo_id: str) -> None:
    """Branches and tags."""
    repo = repo_of(request, kind, repo_id)
    requests = {name: oid for name, oid in repo.refs.items() if name.startswith("refs/pr/")}
    request.reply(
        200,
        {
            "branches": _refs("heads", {n: c for n, c in repo.refs.items() if n not in requests}),
            "tags": _refs("tags", repo.tags),
            "converts": [],
            "pullRequests": [
                {"name": name, "ref": name, "targetCommit": oid} for name, oid in requests.items()
            ],
        },
    )


def history(request: Request, kind: str, repo_id: str, rev: str) -> None:
    """The commits that lead to a revision, newest first."""
    repo = repo_of(request, kind, repo_id)
    commit, out = repo.at(rev), []
    while True:
        out.append(
            {
                "id": commit.oid,
                "title": commit.title,
                "message": commit.message,
                "date": commit.date,
                "authors": [{"user": "loopback"}],
            }
        )
        if commit.parent is None:
            break
        commit = repo.commits[commit.parent]
    request.reply(200, out)


def tree(request: Request, kind: str, repo_id: str, rev: str, folder: str | None) -> None:
    """A folder's files and folders, a page at a time; the Link header has the address of the next page."""
    files = repo_of(request, kind, repo_id).at(rev).files
    deep = request.query.get("recursive", [""])[0].lower() in ("true", "1")
    entries = list_folder(files, folder.strip("/") + "/" if folder else "", deep)
    if folder and not entries:
        raise Refusal(404, f'{folder} does not exist on "{rev}"', "EntryNotFound")
    at = int(request.query.get("cursor", ["0"])[0])
    end, headers = at + request.hub.page_size, {}
    if end < len(entries):
        query = urllib.parse.urlencode(
            {k: v[0] for k, v in request.query.items()} | {"cursor": end}
        )
        headers["Link"] = f'<{request.hub.url}{request.url_path}?{query}>; rel="next"'
    request.reply(200, entries[at:end], headers)


def list_folder(files: Mapping[str, Blob], inside: str, deep: bool) -> list[dict[str, Any]]:
    """Entries of the folder `inside` ("" or "a/b/"), by path: its own files and folders, or all below when `deep`."""
    out = {}
    for path, blob in files.items():
        if path.startswith(inside):
            parts = path[len(inside) :].split("/")
            for i in range(1, len(parts) if deep else min(2, len(parts))):
                folder = inside + "/".join(parts[:i])
                out[folder] = _folder_entry(folder)
            if deep or len(parts) == 1:
                out[path] = _file_entry(path, blob)
    return [out[path] for path in sorted(out)]


def lfs_files(request: Request, kind: str, repo_id: str) -> None:
    """The LFS files of all branches, newest commit first, each object once."""
    repo = repo_of(request, kind, repo_id)
    seen: dict[str, dict[str, Any]] = {}
    for ref in repo.refs:
        for path, blob in repo.at(ref).files.items():
            if blob.lfs:
                seen.setdefault(blob.sha256, _lfs_entry(path, blob, ref, repo.at(ref).date))
    request.reply(200, list(seen.values()))


def _lfs_entry(path: str, blob: Blob, ref: str, date: str) -> dict[str, Any]:
    where = {"filename": path, "ref": ref, "pushedAt": date}
    return where | {"fileOid": blob.oid, "oid": blob.sha256, "size": blob.size}


def paths_info(request: Request, kind: str, repo_id: str, rev: str) -> None:
    """Entries of the paths in the form; paths that do not exist are omitted."""
    form = urllib.parse.parse_qs(b"".join(request.body).decode())
    files = repo_of(request, kind, repo_id).at(rev).files
    request.reply(200, list(_entries(files, form.get("paths", []))))


def _entries(files: Mapping[str, Blob], paths: Iterable[str]) -> Iterable[dict[str, Any]]:
    for path in (p.strip("/") for p in paths):
        if path in files:
            yield _file_entry(path, files[path])
        elif any(p.startswith(path + "/") for p in files):
            yield _folder_entry(path)


def _file_entry(path: str, blob: Blob) -> dict[str, Any]:
    lfs = (
        {"lfs": {"oid": blob.sha256, "size": blob.size, "pointerSize": _pointer_bytes(blob)}}
        if blob.lfs
        else {}
    )
    return {"type": "file", "path": path, "size": blob.size, "oid": blob.oid} | lfs


def _folder_entry(path: str) -> dict[str, Any]:
    return {
        "type": "directory",
        "path": path,
        "size": 0,
        "oid": hashlib.sha1(path.encode()).hexdigest(),
    }


def _blob_details(blob: Blob) -> dict[str, Any]:
    lfs = (
        {"lfs": {"sha256": blob.sha256, "size": blob.size, "pointerSize": _pointer_bytes(blob)}}
        if blob.lfs
        else {}
    )
    return {"size": blob.size, "blobId": blob.oid} | lfs


def _pointer_bytes(blob: Blob) -> int:
    return len(lfs_pointer(blob.sha256, blob.size))


def _refs(where: str, table: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"name": name, "ref": f"refs/{where}/{name}", "targetCommit": oid}
        for name, oid in table.items()
    ]


# ---- the files themselves


def resolve(request: Request, prefix: str | None, repo_id: str, rev: str, path: str) -> None:
    """A small file's bytes, or for an LFS file a redirect to another origin, to which clients send no token."""
    kind = (prefix or "models").strip("/")
    commit = repo_of(request, kind, repo_id).at(rev)
    headers = {"X-Repo-Commit": commit.oid}
    blob = commit.files.get(path)
    if blob is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", headers=headers)
    headers["ETag"] = f'"{blob.oid}"'
    if not blob.lfs:
        return request.reply_file(request.hub.store.object(blob.sha256), headers)
    headers |= {
        "X-Linked-Size": str(blob.size),
        "X-Linked-Etag": f'"{blob.sha256}"',
        "Location": f"{request.hub.cdn_url}/__cdn__/{blob.sha256}",
    }
    in_xet = request.hub.store.xet and request.hub.store.xet.find(blob.sha256)
    if in_xet:
        token = f"{request.hub.url}/api/{kind}/{repo_id}/xet-read-token/{commit.oid}?sha256={blob.sha256}"
        headers |= {"X-Xet-Hash": in_xet.xet_hash, "X-Xet-Refresh-Route": token}
    return request.reply(302, raw=b"Found. Redirecting", headers=headers, content_type="text/plain")


def cdn(request: Request, sha256: str) -> None:
    """An object by its hash, without a token, as with a signed address."""
    path = request.hub.store.object(sha256)
    if not path.exists():
        raise Refusal(404, "no such object")
    request.reply_file(path, {"ETag": f'"{sha256}"'})


ROUTES = [
    route("GET", rf"/api/{KIND}/{REPO_ID}/refs", refs),
    route("GET", rf"/api/{KIND}/{REPO_ID}/commits/(.+)", history),
    route("GET", rf"/api/{KIND}/{REPO_ID}/tree/([^/]+)(?:/(.+))?", tree),
    route("GET", rf"/api/{KIND}/{REPO_ID}/lfs-files", lfs_files),
    route("POST", rf"/api/{KIND}/{REPO_ID}/paths-info/([^/]+)", paths_info),
    route("GET", rf"/api/{KIND}/{REPO_ID}(?:/revision/([^/]+))?", info),
    *(
        route(method, rf"{PREFIX}{REPO_ID}/resolve/([^/]+)/(.+)", resolve)
        for method in ("GET", "HEAD")
    ),
    *(route(method, r"/__cdn__/([0-9a-f]{64})", cdn) for method in ("GET", "HEAD")),
]
