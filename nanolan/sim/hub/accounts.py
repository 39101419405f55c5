"""The local Hub's front desk: who is asking, what they may see, and the repositories as a whole."""

from __future__ import annotations

import hashlib
from typing import Any

from nanolan.sim.hub.http import Request, route
from nanolan.sim.hub.repo import KINDS, Refusal, Repo, User, gitattributes, now

KIND = r"(models|datasets|spaces)"
RID = r"([^/]+/[^/]+?)"

NO_LOGIN = "Invalid username or password."


# ---- who is asking


def user_of(ask: Request) -> User | None:
    """The user behind the request's token, None without one; 401 for a token that nobody has."""
    header = ask.headers.get("Authorization", "")
    if not header:
        return None
    user = ask.hub.tokens.get(header.removeprefix("Bearer ").strip())
    if user is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return user


def is_member(user: User | None, owner: str) -> bool:
    """Does `owner`'s private space belong to the user, too?"""
    return user is not None and (user["name"] == owner or owner in user["orgs"])


def writer_of(ask: Request, owner: str) -> User:
    """The user, who may write to `owner`'s repositories; 401 without a token, 403 if not allowed."""
    user = user_of(ask)
    if user is None:
        raise Refusal(401, NO_LOGIN)
    if user["role"] != "write" or not is_member(user, owner):
        raise Refusal(403, f"You don't have the required permissions to write to {owner}")
    return user


def repo_of(ask: Request, kind: str, rid: str, write: bool = False) -> Repo:
    """The repository, if the user may see it (and write to it).

    The Hub never tells whether a private one exists: 401 without a token, 404 with one that has no access. The code
    RepoNotFound must be sent: clients map a bare 401 to "repository not found" for https addresses only.
    """
    repo, user, owner = ask.hub.store.load(KINDS[kind], rid), user_of(ask), rid.split("/")[0]
    if repo is None or (repo.private and not is_member(user, owner)):
        raise (
            Refusal(404, "Repository not found", "RepoNotFound")
            if user
            else Refusal(401, NO_LOGIN, "RepoNotFound")
        )
    if write:
        writer_of(ask, owner)
    return repo


# ---- answers


def whoami(ask: Request) -> None:
    """The account of the token, and the role of the token."""
    user = user_of(ask)
    if user is None:
        raise Refusal(401, NO_LOGIN)
    name, token = (
        user["name"],
        {"displayName": "loopback", "role": user["role"], "createdAt": now()},
    )
    ask.reply(
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


def create(ask: Request) -> None:
    """A new repository with a .gitattributes; 409 (with its address, which clients read) if there is one."""
    d = ask.json()
    typ, rid = _named(ask, d)
    writer_of(ask, rid.split("/")[0])
    url = f"{ask.hub.url}/{'' if typ == 'model' else typ + 's/'}{rid}"
    store = ask.hub.store
    with store.lock:
        if store.load(typ, rid):
            raise Refusal(409, f"You already created this {typ} repo", url=url)
        private = d.get("visibility") == "private" or bool(d.get("private"))
        store.save(
            Repo.new(
                typ, rid, private, {".gitattributes": store.add(".gitattributes", gitattributes())}
            )
        )
    ask.reply(200, {"url": url, "name": rid, "id": _id(rid)})


def delete(ask: Request) -> None:
    """Forget a repository."""
    typ, rid = _named(ask, ask.json())
    with ask.hub.store.lock:
        repo_of(ask, typ + "s", rid, write=True)
        ask.hub.store.delete(typ, rid)
    ask.reply(200, raw=b"OK", content_type="text/plain")


def _named(ask: Request, d: dict[str, Any]) -> tuple[str, str]:
    """Type and id of the repository that a body names: the user's own unless it names an organization."""
    user, typ = user_of(ask), d.get("type") or "model"
    if typ not in KINDS.values():
        raise Refusal(400, f"no repositories of type {typ!r}")
    owner = d.get("organization") or (user["name"] if user else "")
    return typ, f"{owner}/{d['name']}"


def settings(ask: Request, kind: str, rid: str) -> None:
    """Make a repository private or public."""
    d = ask.json()
    with ask.hub.store.lock:
        repo = repo_of(ask, kind, rid, write=True)
        repo.private = (
            d["visibility"] == "private"
            if "visibility" in d
            else bool(d.get("private", repo.private))
        )
        ask.hub.store.save(repo)
    ask.reply(200, {"private": repo.private})


def listing(ask: Request, kind: str) -> None:
    """The repositories that the user may see, of one author if the query names one."""
    user, author = user_of(ask), ask.query.get("author", [None])[0]
    ask.reply(
        200,
        [
            summary(r)
            for r in ask.hub.store.all()
            if r.typ == KINDS[kind]
            and author in (None, r.id.split("/")[0])
            and (not r.private or is_member(user, r.id.split("/")[0]))
        ],
    )


def auth_check(ask: Request, kind: str, rid: str, write: str | None) -> None:
    """200 if the user may read (or write) the repository."""
    repo_of(ask, kind, rid, write=bool(write))
    ask.reply(200, {})


def harnesses(ask: Request) -> None:
    """What the `hf` command asks for first; without an answer it would ask again each time."""
    ask.reply(200, {"standardEnvVars": [], "harnesses": {}})


def summary(repo: Repo) -> dict[str, Any]:
    """What lists and details say about a repository."""
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
    route("GET", rf"/api/{KIND}", listing),
    route("PUT", rf"/api/{KIND}/{RID}/settings", settings),
    route("GET", rf"/api/{KIND}/{RID}/auth-check(/write)?", auth_check),
]
