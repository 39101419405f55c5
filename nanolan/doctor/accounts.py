"""Checks of both accounts: the Shadeform key and wallet, the Hub token, and what HF_REPO holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nanolan.checklist import Check
from nanolan.cost.forecast import forecaster, work_of
from nanolan.doctor.context import DoctorContext
from nanolan.errors import AuthProblem, NanolanError, NotFound, Unreachable
from nanolan.hub.client import TOKENS_URL, Hub, other_names
from nanolan.hub.layout import Piece, paths_needed, paths_read, size_text
from nanolan.hub.pins import pin_dataset
from nanolan.launch.preflight import check_box_key, check_money, check_time, wallet_hint
from nanolan.money import dollars
from nanolan.net.deadline import start_thread
from nanolan.phases import IDENTITY_FILE, data_files
from nanolan.shadeform.offers import choose, wanted_from

KEY_URL = "https://platform.shadeform.ai/settings/api"
BILLING_URL = "https://platform.shadeform.ai/settings/billing"
CREATE = "check the name; or create it, private: just upload base"
AGAIN = "upload it again: just upload --help"
FINE = f"make a fine-grained token with write access to HF_REPO: {TOKENS_URL}"


def look_at_key(p: DoctorContext) -> list[Check]:
    """Whether the Shadeform key works; every key has full rights."""
    if p.api is None:
        return [
            Check(
                "Shadeform key",
                False,
                "SHADEFORM_API_KEY is not set",
                f"SHADEFORM_API_KEY=... in .env, from {KEY_URL}",
            )
        ]
    try:
        count = sum(i.billing for i in p.instances())
    except AuthProblem as e:
        return [Check("Shadeform key", False, str(e), f"make a new key: {KEY_URL}")]
    return [
        Check(
            "Shadeform key",
            True,
            f"works; {count} instances bill now. It has full rights on the account, as all of "
            "Shadeform's keys have: rent, delete, read SSH keys",
        ),
        check_box_key(p.s, p.instances),
    ]


def look_at_market(p: DoctorContext) -> list[Check]:
    """Whether offers exist, whether the limits suffice for them, and what the wallet must hold."""
    if p.api is None:
        return [Check("offers", None, "not looked at without SHADEFORM_API_KEY"), _wallet(None)]
    expected = forecaster(work_of(p.s), p.ledger.readable()[0])
    listed, _ = p.api.offers()
    found, _ = choose(
        listed, wanted_from(p.s), expected=lambda o: f.likely_cents if (f := expected(o)) else None
    )
    if not found:
        return [
            Check(
                "offers",
                None,
                f"none for {p.s.num_gpus}x {p.s.gpu} just now",
                "just offers --all-configs",
            ),
            _wallet(None),
        ]
    foreseen = expected(found[0])
    return [
        Check(
            "offers",
            True,
            f"{len(found)} for {p.s.num_gpus}x {p.s.gpu}, from {dollars(found[0].hourly_cents)}/h",
        ),
        check_money(p.s.spend_limit, found[0].hourly_cents, foreseen),
        *check_time(p.s.max_duration, foreseen),
        _wallet(foreseen.likely_cents if foreseen else None),
    ]


def _wallet(expected_cents: int | None) -> Check:
    hint = wallet_hint(expected_cents)
    return Check(
        hint.name, None, hint.text, f"look, and switch automatic top-up off: {BILLING_URL}"
    )


# ------------------------------------------------------------------ the Hub
def look_at_token(p: DoctorContext) -> list[Check]:
    """Who the token belongs to and what it may do, then whether it may write what a run writes."""
    if p.hub is None:
        return [
            Check(
                "Hub token",
                False,
                "HF_TOKEN is not set, and there is no Hub login",
                f"just hf auth login; or {FINE}",
            )
        ]
    try:
        checks = [scope(p.hub.whoami(), _name_of_repo(p))]
    except AuthProblem as e:
        return [Check("Hub token", False, str(e), FINE)]
    return checks + [
        _may_write(p.hub, repo) for repo in dict.fromkeys((p.s.hf_repo, p.s.runs_repo)) if repo
    ]


def _name_of_repo(p: DoctorContext) -> str | None:
    """HF_REPO as the Hub calls it, which is what a token's rights name."""
    try:
        return p.tree().repo
    except NanolanError:  # another check reports it
        return p.s.hf_repo


def scope(who: dict[str, Any], repo: str | None) -> Check:
    """The permissions of the token in a whoami answer."""
    try:
        name, token = str(who["name"]), who["auth"]["accessToken"]
        role = str(token["role"])
        scoped = [
            (str(e["entity"]["name"]), "repo.write" in e["permissions"])
            for e in (token.get("fineGrained") or {}).get("scoped") or ()
        ]
    except (KeyError, TypeError, AttributeError):
        return Check("Hub token", None, "works; the Hub does not report its permissions")
    if role == "read":
        return Check("Hub token", False, f"works, as {name}, but may only read", FINE)
    if role == "write":
        return Check(
            "Hub token",
            None,
            f"works, as {name}; may write everything of yours, more than a run needs",
            FINE,
        )
    written = [entity for entity, may in scoped if may]
    text = f"works, as {name}; fine-grained, may write {', '.join(written) or 'nothing'}"
    if repo and not {repo, repo.split("/")[0]} & set(written):
        return Check(
            "Hub token",
            False,
            f"{text}, which is not {repo}",
            f"give it write access to {repo}: {TOKENS_URL}",
        )
    return Check("Hub token", True, text)


def _may_write(hub: Hub, repo: str) -> Check:
    try:
        hub.check_write(repo)
    except NotFound as e:
        return Check("write access", False, str(e), CREATE)
    except AuthProblem as e:
        return Check("write access", False, str(e), FINE)
    return Check("write access", True, repo)


def look_at_repo(p: DoctorContext) -> list[Check]:
    """HF_REPO and whether the world can read it."""
    if p.s.hf_repo is None:
        return [
            Check(
                "HF_REPO",
                False,
                "not set: the repo of your checkpoints",
                "HF_REPO=owner/name in .env; any name: just upload base creates it, private",
            )
        ]
    try:
        tree = p.tree()
    except NotFound as e:
        return [Check("HF_REPO", False, str(e), CREATE)]
    names = [
        Check("repo name", None, text)
        for text in other_names({"HF_REPO": (p.s.hf_repo, tree.repo)})
    ]
    if tree.private:
        return [*names, Check("HF_REPO", True, f"{tree.repo}, private, {len(tree.files)} files")]
    return [
        *names,
        Check(
            "HF_REPO",
            None,
            f"{tree.repo} is PUBLIC: so will be checkpoints, logs, plan and code of every run",
            "RUNS_REPO=owner/private-repo keeps logs, plan and code private",
        ),
    ]


def look_at_structure(p: DoctorContext) -> list[Check]:
    """Each piece of the expected structure; what a run of these settings needs must be there."""
    wanted, read = paths_needed(p.s), paths_read(p.s)
    return [
        _check_of(piece, piece.path in (wanted if piece.state == "missing" else read), p.s.phase)
        for piece in p.structure()
    ]


def _check_of(piece: Piece, wanted: bool, phase: str) -> Check:
    size = f", {size_text(piece.size)}" if piece.size else ""
    use = (
        f"phase={phase} cannot start without it"
        if wanted and piece.state == "missing"
        else piece.use
    )
    text = f"{piece.state}{size}; {use}"
    if piece.state == "missing":
        return Check(piece.path, False if wanted else None, text, piece.text)
    if piece.state == "unproven":
        return Check(piece.path, None, text, f"just verify --adopt {piece.path}")
    if piece.state == "NOT WHOLE":
        again = (
            "just identity ..., then: just upload data" if piece.path == IDENTITY_FILE else AGAIN
        )
        return Check(piece.path, False if wanted else None, f"{text}: {piece.text}", again)
    return Check(piece.path, True, f"{text}{'; ' + piece.text if piece.text else ''}")


def look_at_pickles(p: DoctorContext) -> list[Check]:
    """Pickled files, inspected without running or downloading them; unsafe ones are reported by the structure check."""
    return [
        Check("safe to load", True, f"{piece.path}: {piece.inside}")
        for piece in p.structure()
        if piece.inside and piece.path != IDENTITY_FILE
    ]


def inspect_identity(p: DoctorContext) -> list[Check]:
    """The identity conversations; errors in them are reported by the structure check."""
    return [
        Check("identity data", True, piece.inside)
        for piece in p.structure()
        if piece.inside and piece.path == IDENTITY_FILE
    ]


def inspect_datasets(p: DoctorContext) -> list[Check]:
    """The data sets of the settings' phases: there, and laid out as expected."""
    hub = p.hub or Hub(p.s.hf_endpoint, None, patience_s=5)
    wanted = data_files(p.s.phases, p.s.eval != "none", p.s.humaneval)

    def look(repo: str) -> Check:
        try:
            pinned = pin_dataset(hub, repo, wanted[repo])
        except Unreachable:
            raise  # one line for all of them
        except NanolanError as e:
            return Check("data set", False, str(e), "is there a newer nanolan? git pull")
        return Check(
            "data set", True, f"{repo}, {len(pinned.files)} files, {size_text(pinned.size)}"
        )

    return _together(look, list(wanted))


def _together(look: Callable[[str], Check], names: list[str]) -> list[Check]:
    """Concurrently, in daemon threads: a pool would block the exit of the program while one of them hangs."""
    return [answer.result() for answer in [start_thread(partial(look, name)) for name in names]]
