"""Fetches one commit of a repository by its URL, with its submodules, by the user's own git: the instance needs no credentials.

A name or token in an address is refused and never printed: an address stands in the plan, the log and the list of processes.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from nanolan.code.git import git_environment
from nanolan.errors import PreflightFailed, UsageProblem

PLACE = r"[^\s@?#]+"
URL = re.compile(
    rf"((?:https?|file)://{PLACE}|ssh://(?:[\w.-]+@)?{PLACE}|[\w.-]+@[\w.-]+:{PLACE})@([0-9a-f]{{40}})"
)
COMMIT = re.compile(r"@[0-9a-fA-F]{4,64}\Z")
REPOSITORY = re.compile(r"[\w-]+(\.[\w-]+)+/[\w./~-]+")  # github.com/owner/name, without a user
# GIT_* variables by which the user's git reaches a server
REACH = re.compile(r"GIT_(SSH|SSH_COMMAND|SSH_VARIANT|ASKPASS|SSL_\w+|PROXY_SSL_\w+|HTTP_\w+)")
FETCH_S = 300.0
# With all of their history: few servers give a commit that is not the end of a branch, and a shallow try spoils the next
SUBMODULES = ("submodule", "--quiet", "update", "--init", "--recursive")


def parse_url(value: str) -> tuple[str, str]:
    """(URL, commit) of URL@COMMIT."""
    if found := URL.fullmatch(value):
        return found[1], found[2]
    shown = without_user(value)
    if re.search(r"//[^@]*:[^@]*@.*[/@]|\Ahttps?://[^/]*@.", value):
        raise UsageProblem(
            f"trainer={shown}: leave the name and the token out; git's own credentials are used"
        )
    raise UsageProblem(
        f"trainer={shown}: give https://, ssh:// or user@host:path, and the whole commit: URL@COMMIT with its "
        "40 hexadecimal digits (git ls-remote URL HEAD)"
    )


def without_user(value: str) -> str:
    """A short form of an address without what may be a user, a token or a query."""
    commit = COMMIT.search(value)
    address = value[: commit.start()] if commit else value
    scheme, sign, rest = address.rpartition("://")
    before, at, host = rest.rpartition("@")
    if at and not REPOSITORY.fullmatch(before):
        rest = f"...@{host}"
    scheme = scheme if re.fullmatch(r"[\w+.-]*", scheme) else "..."
    return f"{scheme}{sign}{re.split('[?#]', rest)[0][:100]}{commit[0] if commit else ''}"


def fetch_commit(url: str, commit: str, target: Path) -> None:
    """Check out one commit with its submodules. Servers that give only whole branches are asked for these."""
    target.mkdir()
    for tries in (
        (("init", "--quiet"),),
        (("remote", "add", "origin", url),),  # submodules may be relative to it
        (("fetch", "--quiet", "--depth=1", "origin", commit), ("fetch", "--quiet", "origin")),
        (("checkout", "--quiet", "--detach", commit),),
        (SUBMODULES,),
    ):
        for words in tries:
            failed = _git(target, url, words)
            if not failed:
                break
        else:
            raise PreflightFailed(
                f"git {words[0]} of {url} at {commit[:8]} failed: {failed}; nothing was rented"
            )


def _git(target: Path, url: str, words: tuple[str, ...]) -> str:
    """Run git; what it said when it failed, or ""."""
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=target,
            env=_environment(url),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FETCH_S,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {FETCH_S:.0f} s"
    except OSError as e:
        return f"{type(e).__name__}: is git installed?"
    said = " ".join(done.stderr.replace(f"{target}/", "").split())
    said = re.sub(r"//[^\s'\"]*@", "//...@", said)
    return (said[:300] or f"exit code {done.returncode}") if done.returncode else ""


def _environment(url: str) -> dict[str, str]:
    """Only a repository on this machine may name submodules on this machine: they would be sent to the Hub."""
    scheme = url.partition("://")[0] if "://" in url else "ssh"
    reach = {k: v for k, v in os.environ.items() if REACH.fullmatch(k)}
    allowed = ":".join(sorted({"https", "ssh", scheme}))
    return git_environment() | reach | {"GIT_ALLOW_PROTOCOL": allowed}
