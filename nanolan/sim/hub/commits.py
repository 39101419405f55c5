"""Writes to the local Hub: what to upload, commits, branches and tags."""

from __future__ import annotations

import base64
import fnmatch
import json
import re
from typing import Any

import yaml

from nanolan.sim.hub.accounts import KIND, REPO_ID, repo_of
from nanolan.sim.hub.http import Request, route
from nanolan.sim.hub.repo import Change, Refusal, Repo, is_lfs, lfs_blob

# The fields of a model card's metadata whose types the Hub checks (huggingface_hub, repocard_data.py)
TYPES_OF_METADATA: dict[str, tuple[type, ...]] = {
    "license": (str, list),
    "tags": (list,),
    "datasets": (str, list),
    "language": (str, list),
    "base_model": (str, list),
    "pipeline_tag": (str,),
    "library_name": (str,),
    "model-index": (list,),
}
REQUIRED_OF_A_RESULT = ("task.type", "dataset.type", "dataset.name", "metrics")


def preupload(request: Request, kind: str, repo_id: str, rev: str) -> None:
    """For each file: git or LFS, ignored or not, and its current id (clients skip unchanged files)."""
    data = request.json()
    files = repo_of(request, kind, repo_id, write=True).at(rev).files
    ignore = [g.strip() for g in data.get("gitIgnore", "").splitlines() if g.strip()]
    out: list[dict[str, Any]] = []
    for f in data["files"]:
        path, blob = f["path"], files.get(f["path"])
        lfs = is_lfs(path, f["size"], base64.b64decode(f.get("sample", "")))
        ignored = any(
            fnmatch.fnmatch(path, g) or fnmatch.fnmatch(path.split("/")[-1], g) for g in ignore
        )
        out.append(
            {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": ignored}
            | ({"oid": blob.sha256 if blob.lfs else blob.oid} if blob else {})
        )
    request.reply(200, {"files": out})


def commit(request: Request, kind: str, repo_id: str, rev: str) -> None:
    """Apply an NDJSON list of changes to a branch: all of them or none."""
    repo_of(request, kind, repo_id, write=True)  # before anything is stored
    lines = [json.loads(line) for line in b"".join(request.body).splitlines() if line.strip()]
    head = next((line["value"] for line in lines if line["key"] == "header"), None)
    if head is None:
        raise Refusal(400, "a commit needs a header")
    changes = [
        _change(request, line["key"], line["value"]) for line in lines if line["key"] != "header"
    ]
    store, pull_request = request.hub.store, ""
    title, message = head["summary"], head.get("description", "")
    with store.lock:
        repo = repo_of(request, kind, repo_id, write=True)
        if request.query.get("create_pr") == ["1"]:
            pull_request = repo.propose(changes, title, message)
            new = repo.at(pull_request)
        else:
            new = repo.commit(rev, changes, title, message, head.get("parentCommit"))
        store.save(repo)
    page = f"{request.hub.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
    number = pull_request.rpartition("/")[2]
    request.reply(
        200,
        {
            "success": True,
            "commitOid": new.oid,
            "commitUrl": f"{page}/commit/{new.oid}",
            "pullRequestUrl": f"{page}/discussions/{number}" if pull_request else None,
            "hookOutput": "",
        },
    )


def _change(request: Request, key: str, value: dict[str, Any]) -> Change:
    """Store the content of one line of a commit, and return it as a Change."""
    path, store = value["path"], request.hub.store
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


def validate_yaml(request: Request) -> None:
    """The check of a README's metadata that clients request before they commit one."""
    problem = request.hub.bad_readmes or metadata_problem(str(request.json()["content"]))
    errors = [{"message": problem}] if problem else []
    request.reply(400 if problem else 200, {"errors": errors, "warnings": []})


def metadata_problem(readme: str) -> str:
    """Why the Hub refuses the YAML front matter, or ""."""
    front = re.match(r"\s*---[ \t]*\r?\n(.*?)(?:^---[ \t]*$|\Z)", readme, re.S | re.M)
    if front is None:
        return ""
    try:
        data = yaml.safe_load(front[1])
    except yaml.YAMLError as e:
        return f"YAML metadata is not valid: {str(e).splitlines()[0]}"
    if data is not None and not isinstance(data, dict):
        return "YAML metadata must be an object"
    for name, kinds in TYPES_OF_METADATA.items():
        if data and not isinstance(data.get(name), (*kinds, type(None))):
            return f'"{name}" must be {" or ".join(k.__name__ for k in kinds)}'
    return index_problem((data or {}).get("model-index") or [])


def index_problem(index: list[Any]) -> str:
    """Why the Hub refuses a model-index, or ""."""
    for n, model in enumerate(index):
        if not isinstance(model, dict) or not model.get("name"):
            return f'"model-index[{n}].name" is required'
        for r, result in enumerate(model.get("results") or ()):
            for name in REQUIRED_OF_A_RESULT:
                value: Any = result
                for key in name.split("."):
                    value = value.get(key) if isinstance(value, dict) else None
                if not value:
                    return f'"model-index[{n}].results[{r}].{name}" is required'
            for m, metric in enumerate(result["metrics"]):
                if not metric.get("type") or "value" not in metric:
                    return f'"model-index[{n}].results[{r}].metrics[{m}]" needs type and value'
    return ""


def squash(request: Request, kind: str, repo_id: str, branch: str) -> None:
    """Replace a branch's history by one commit."""
    store = request.hub.store
    with store.lock:
        repo = repo_of(request, kind, repo_id, write=True)
        repo.squash(branch, request.json().get("message") or f"Super-squash branch '{branch}'")
        store.save(repo)
    request.reply(200, {})


def add_branch(request: Request, kind: str, repo_id: str, name: str) -> None:
    """Create a branch from `startingPoint` or main; 409 if it exists."""
    _add_ref(request, kind, repo_id, "refs", name, request.json().get("startingPoint") or "main")


def add_tag(request: Request, kind: str, repo_id: str, rev: str) -> None:
    """Create a tag on a revision; 409 if it exists."""
    _add_ref(request, kind, repo_id, "tags", request.json()["tag"], rev)


def drop_branch(request: Request, kind: str, repo_id: str, name: str) -> None:
    """Remove a branch."""
    _drop_ref(request, kind, repo_id, "refs", name)


def drop_tag(request: Request, kind: str, repo_id: str, name: str) -> None:
    """Remove a tag."""
    _drop_ref(request, kind, repo_id, "tags", name)


def _add_ref(request: Request, kind: str, repo_id: str, table: str, name: str, rev: str) -> None:
    with request.hub.store.lock:
        repo = repo_of(request, kind, repo_id, write=True)
        if name in _table(repo, table):
            raise Refusal(409, f"Reference already exists: {name}")
        _table(repo, table)[name] = repo.at(rev).oid
        request.hub.store.save(repo)
    request.reply(200, {})


def _drop_ref(request: Request, kind: str, repo_id: str, table: str, name: str) -> None:
    with request.hub.store.lock:
        repo = repo_of(request, kind, repo_id, write=True)
        if _table(repo, table).pop(name, None) is None:
            raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
        request.hub.store.save(repo)
    request.reply(200, {})


def _table(repo: Repo, which: str) -> dict[str, str]:
    return repo.refs if which == "refs" else repo.tags


ROUTES = [
    route("POST", r"/api/validate-yaml", validate_yaml),
    route("POST", rf"/api/{KIND}/{REPO_ID}/preupload/([^/]+)", preupload),
    route("POST", rf"/api/{KIND}/{REPO_ID}/commit/([^/]+)", commit),
    route("POST", rf"/api/{KIND}/{REPO_ID}/branch/([^/]+)", add_branch),
    route("POST", rf"/api/{KIND}/{REPO_ID}/super-squash/([^/]+)", squash),
    route("DELETE", rf"/api/{KIND}/{REPO_ID}/branch/([^/]+)", drop_branch),
    route("POST", rf"/api/{KIND}/{REPO_ID}/tag/([^/]+)", add_tag),
    route("DELETE", rf"/api/{KIND}/{REPO_ID}/tag/([^/]+)", drop_tag),
]
