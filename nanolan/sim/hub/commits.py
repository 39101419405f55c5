"""The local Hub's writing desk: what to upload, commits, branches and tags."""

from __future__ import annotations

import base64
import fnmatch
import json
from typing import Any

from nanolan.sim.hub.accounts import KIND, RID, repo_of
from nanolan.sim.hub.http import Request, route
from nanolan.sim.hub.repo import Change, Refusal, Repo, is_lfs, lfs_blob


def preupload(ask: Request, kind: str, rid: str, rev: str) -> None:
    """For each file: into git or into LFS, ignored or not, and the id it has now (clients skip what is unchanged)."""
    d = ask.json()
    files = repo_of(ask, kind, rid, write=True).at(rev).files
    ignore = [g.strip() for g in d.get("gitIgnore", "").splitlines() if g.strip()]
    out: list[dict[str, Any]] = []
    for f in d["files"]:
        path, blob = f["path"], files.get(f["path"])
        lfs = is_lfs(path, f["size"], base64.b64decode(f.get("sample", "")))
        ignored = any(
            fnmatch.fnmatch(path, g) or fnmatch.fnmatch(path.split("/")[-1], g) for g in ignore
        )
        out.append(
            {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": ignored}
            | ({"oid": blob.sha256 if blob.lfs else blob.oid} if blob else {})
        )
    ask.reply(200, {"files": out})


def commit(ask: Request, kind: str, rid: str, rev: str) -> None:
    """Apply an NDJSON list of changes to a branch: all of them or none."""
    repo_of(ask, kind, rid, write=True)  # before anything is stored
    lines = [json.loads(line) for line in b"".join(ask.body).splitlines() if line.strip()]
    head = next((line["value"] for line in lines if line["key"] == "header"), None)
    if head is None:
        raise Refusal(400, "a commit needs a header")
    changes = [
        _change(ask, line["key"], line["value"]) for line in lines if line["key"] != "header"
    ]
    store = ask.hub.store
    with store.lock:
        repo = repo_of(ask, kind, rid, write=True)
        new = repo.commit(
            rev, changes, head["summary"], head.get("description", ""), head.get("parentCommit")
        )
        store.save(repo)
    prefix = "" if kind == "models" else kind + "/"
    ask.reply(
        200,
        {
            "success": True,
            "commitOid": new.oid,
            "commitUrl": f"{ask.hub.url}/{prefix}{rid}/commit/{new.oid}",
            "pullRequestUrl": None,
            "hookOutput": "",
        },
    )


def _change(ask: Request, key: str, value: dict[str, Any]) -> Change:
    """One line of a commit as a Change; its content is stored on the way."""
    path, store = value["path"], ask.hub.store
    if key == "file":
        content = value["content"]
        raw = (
            base64.b64decode(content, validate=True)
            if value.get("encoding") == "base64"
            else content.encode()
        )
        return Change(path, store.add(path, raw))
    if key == "lfsFile":
        size = store.size_of(value["oid"])
        if size is None:
            raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
        return Change(path, lfs_blob(value["oid"], size))
    if key in ("deletedFile", "deletedFolder"):
        return Change(path, None, folder=key == "deletedFolder")
    raise Refusal(400, f"a commit cannot do {key!r} here")


def validate_yaml(ask: Request) -> None:
    """The check of a README's metadata that clients ask for; everything is fine, unless a test says otherwise."""
    ask.json()
    if ask.hub.bad_readmes:
        ask.reply(400, {"errors": [{"message": ask.hub.bad_readmes}], "warnings": []})
        return
    ask.reply(200, {"errors": [], "warnings": []})


def add_branch(ask: Request, kind: str, rid: str, name: str) -> None:
    """A new branch from `startingPoint` or main; 409 if there is one."""
    _add_ref(ask, kind, rid, "refs", name, ask.json().get("startingPoint") or "main")


def add_tag(ask: Request, kind: str, rid: str, rev: str) -> None:
    """A new tag on a revision; 409 if there is one."""
    _add_ref(ask, kind, rid, "tags", ask.json()["tag"], rev)


def drop_branch(ask: Request, kind: str, rid: str, name: str) -> None:
    """Remove a branch."""
    _drop_ref(ask, kind, rid, "refs", name)


def drop_tag(ask: Request, kind: str, rid: str, name: str) -> None:
    """Remove a tag."""
    _drop_ref(ask, kind, rid, "tags", name)


def _add_ref(ask: Request, kind: str, rid: str, table: str, name: str, rev: str) -> None:
    with ask.hub.store.lock:
        repo = repo_of(ask, kind, rid, write=True)
        if name in _table(repo, table):
            raise Refusal(409, f"Reference already exists: {name}")
        _table(repo, table)[name] = repo.at(rev).oid
        ask.hub.store.save(repo)
    ask.reply(200, {})


def _drop_ref(ask: Request, kind: str, rid: str, table: str, name: str) -> None:
    with ask.hub.store.lock:
        repo = repo_of(ask, kind, rid, write=True)
        if _table(repo, table).pop(name, None) is None:
            raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
        ask.hub.store.save(repo)
    ask.reply(200, {})


def _table(repo: Repo, which: str) -> dict[str, str]:
    return repo.refs if which == "refs" else repo.tags


ROUTES = [
    route("POST", r"/api/validate-yaml", validate_yaml),
    route("POST", rf"/api/{KIND}/{RID}/preupload/([^/]+)", preupload),
    route("POST", rf"/api/{KIND}/{RID}/commit/([^/]+)", commit),
    route("POST", rf"/api/{KIND}/{RID}/branch/([^/]+)", add_branch),
    route("DELETE", rf"/api/{KIND}/{RID}/branch/([^/]+)", drop_branch),
    route("POST", rf"/api/{KIND}/{RID}/tag/([^/]+)", add_tag),
    route("DELETE", rf"/api/{KIND}/{RID}/tag/([^/]+)", drop_tag),
]
