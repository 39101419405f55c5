"""The accounts of the local Hub: authentication, permissions, and the repositories as a whole."""

from __future__ import annotations

import hashlib
from typing import Any

from nanolan.sim.hub.http import Request, route
from nanolan.sim.hub.repo import KINDS, Refusal, Repo, User, gitattributes, now

KIND = r"(models|datasets|spaces)"
REPO_ID = r"([^/]+/[^/]+?)"

NO_LOGIN = "Invalid username or password."


# ---- authentication


def user_of(request: Request) -> User | None:
    """The user of the request's token, None without a token; 401 for an unknown token."""
    header = request.headers.get("Authorization", "")
    if not header:
        return None
    user = request.hub.tokens.get(header.removeprefix("Bearer ").strip())
    if user is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return user


def is_member(user: User | None, owner: str) -> bool:
    """Whether the user may access the private repositories of `owner`."""
    return user is not None and (user["name"] == owner or owner in user["orgs"])


def writer_of(request: Request, owner: str) -> User:
    """The user, if they may write to `owner`'s repositories; 401 without a token, 403 if not allowed."""
    user = user_of(request)
    if user is None:
        raise Refusal(401, NO_LOGIN)
    if user["role"] != "write" or not is_member(user, owner):
        raise Refusal(403, f"You don't have the required permissions to write to {owner}")
    return user


def repo_of(request: Request, kind: str, repo_id: str, write: bool = False) -> Repo:
    """The repository, if the user may see it (and write to it).

    A name in other letter case redirects to the repository's own.
    The Hub never reveals whether a private one exists: 401 without a token, 404 with one that has no access. The code
    RepoNotFound must be sent: clients map a bare 401 to "repository not found" for https addresses only.
    """
    spelled = request.hub.store.spelled(KINDS[kind], repo_id)
    repo = request.hub.store.load(KINDS[kind], spelled) if spelled else None
    user, owner = user_of(request), (spelled or repo_id).split("/")[0]
    if repo is None or (repo.private and not is_member(user, owner)):
        raise (
            Refusal(404, "Repository not found", "RepoNotFound")
            if user
            else Refusal(401, NO_LOGIN, "RepoNotFound")
        )
    if write:
        writer_of(request, owner)
    if spelled != repo_id:
        place = request.path.replace(f"/{repo_id}", f"/{spelled}", 1)
        raise Refusal(307, f"the name is {spelled}", headers={"Location": place})
    return repo


# ---- answers


def whoami(request: Request) -> None:
    """The account of the token, and the role of the token."""
    user = user_of(request)
    if user is None:
        raise Refusal(401, NO_LOGIN)
    name = user["name"]
    token = {"displayName": "loopback", "role": user["role"], "createdAt": now()}
    request.reply(
        200,
        {
            "type": "user",
            "id": _id(name),
            "name": name,
            "fullname": name,
            "email": None,
            "emailVerified": True,
            "canPay": False,
            "isPro": False,
            "periodEnd": None,
            "avatarUrl": "",
            "orgs": [
                {"type": "org", "name": o, "fullname": o, "roleInOrg": "write"}
                for o in user["orgs"]
            ],
            "auth": {"type": "access_token", "accessToken": token},
        },
    )


def create(request: Request) -> None:
    """Create a repository with a .gitattributes; 409 (with its address, which clients read) if it exists."""
    data = request.json()
    typ, repo_id = _named(request, data)
    writer_of(request, repo_id.split("/")[0])
    store = request.hub.store
    with store.lock:
        taken = store.spelled(typ, repo_id)
        url = f"{request.hub.url}/{'' if typ == 'model' else typ + 's/'}{taken or repo_id}"
        if taken:
            raise Refusal(409, f"You already created this {typ} repo", url=url)
        private = data.get("visibility") == "private" or bool(data.get("private"))
        store.save(
            Repo.new(
                typ,
                repo_id,
                private,
                {".gitattributes": store.add(".gitattributes", gitattributes())},
            )
        )
    request.reply(200, {"url": url, "name": repo_id, "id": _id(repo_id)})


def delete(request: Request) -> None:
    """Delete a repository."""
    typ, repo_id = _named(request, request.json())
    with request.hub.store.lock:
        repo_of(request, typ + "s", repo_id, write=True)
        request.hub.store.delete(typ, repo_id)
    request.reply(200, raw=b"OK", content_type="text/plain")


def move(request: Request) -> None:
    """Rename a repository; its old name redirects. 409 if the new one is taken."""
    data = request.json()
    old, new, typ = data["fromRepo"], data["toRepo"], data.get("type") or "model"
    with request.hub.store.lock:
        repo_of(request, f"{typ}s", old, write=True)
        writer_of(request, new.split("/")[0])
        if request.hub.store.spelled(typ, new) not in ("", old):
            raise Refusal(409, f"{new} is taken")
        request.hub.rename(old, new, typ)
    request.reply(200, {"url": f"{request.hub.url}/{new}"})


def _named(request: Request, data: dict[str, Any]) -> tuple[str, str]:
    """Type and id of the repository in a body; the owner is the user unless an organization is given."""
    user, typ = user_of(request), data.get("type") or "model"
    if typ not in KINDS.values():
        raise Refusal(400, f"no repositories of type {typ!r}")
    owner = data.get("organization") or (user["name"] if user else "")
    return typ, f"{owner}/{data['name']}"


def settings(request: Request, kind: str, repo_id: str) -> None:
    """Make a repository private or public."""
    data = request.json()
    with request.hub.store.lock:
        repo = repo_of(request, kind, repo_id, write=True)
        repo.private = (
            data["visibility"] == "private"
            if "visibility" in data
            else bool(data.get("private", repo.private))
        )
        request.hub.store.save(repo)
    request.reply(200, {"private": repo.private})


def listing(request: Request, kind: str) -> None:
    """The repositories that the user may see; only one author's if the query names one."""
    user, author = user_of(request), request.query.get("author", [None])[0]
    request.reply(
        200,
        [
            summary(r)
            for r in request.hub.store.all()
            if r.typ == KINDS[kind]
            and author in (None, r.id.split("/")[0])
            and (not r.private or is_member(user, r.id.split("/")[0]))
        ],
    )


def auth_check(request: Request, kind: str, repo_id: str, write: str | None) -> None:
    """200 if the user may read (or write) the repository."""
    repo_of(request, kind, repo_id, write=bool(write))
    request.reply(200, {})


def harnesses(request: Request) -> None:
    """The first request of the `hf` command; without an answer it would repeat it each time."""
    request.reply(200, {"standardEnvVars": [], "harnesses": {}})


def summary(repo: Repo) -> dict[str, Any]:
    """The fields that lists and details share."""
    head = repo.at("main")
    return {
        "_id": _id(repo.id),
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.id.split("/")[0],
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "createdAt": repo.created,
        "sha": head.oid,
        "lastModified": head.date,
        "usedStorage": 0,
    }


def _id(name: str) -> str:
    return hashlib.md5(name.encode()).hexdigest()[:24]


ROUTES = [
    route("GET", r"/api/whoami-v2", whoami),
    route("GET", r"/api/agent-harnesses", harnesses),
    route("POST", r"/api/repos/create", create),
    route("DELETE", r"/api/repos/delete", delete),
    route("POST", r"/api/repos/move", move),
    route("GET", rf"/api/{KIND}", listing),
    route("PUT", rf"/api/{KIND}/{REPO_ID}/settings", settings),
    route("GET", rf"/api/{KIND}/{REPO_ID}/auth-check(/write)?", auth_check),
]
