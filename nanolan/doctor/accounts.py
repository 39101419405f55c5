"""Checks of both accounts: the Shadeform key and wallet, the Hub token, and what HF_REPO holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nanolan.checklist import Check
from nanolan.cost.forecast import forecaster, work_of
from nanolan.cost.gpu_check import read_checks
from nanolan.doctor.context import DoctorContext
from nanolan.errors import AuthProblem, NanolanError, NotFound, Unreachable
from nanolan.hub.client import TOKENS_URL, Hub, other_names
from nanolan.hub.layout import Piece, paths_needed, paths_read, size_text
from nanolan.hub.pins import pin_dataset
from nanolan.launch.preflight import check_box_key, check_money, check_time, wallet_hint
from nanolan.money import dollars
from nanolan.net.deadline import start_thread
from nanolan.phases import IDENTITY_FILE
from nanolan.shadeform.offers import choose, wanted_from

KEY_URL = "https://platform.shadeform.ai/settings/api"
BILLING_URL = "https://platform.shadeform.ai/settings/billing"
CREATE = "check the name, or create the private repo: just upload base"
AGAIN = "upload it again: just upload --help"
FINE = f"make a fine-grained token with write access to HF_REPO: {TOKENS_URL}"


def check_key(context: DoctorContext) -> list[Check]:
    """Whether the Shadeform key works; every key has full rights."""
    if context.api is None:
        return [
            Check(
                "Shadeform key",
                False,
                "SHADEFORM_API_KEY is not set",
                f"SHADEFORM_API_KEY=... in .env, from {KEY_URL}",
            )
        ]
    try:
        count = sum(instance.billing for instance in context.instances())
    except AuthProblem as e:
        return [Check("Shadeform key", False, str(e), f"make a new key: {KEY_URL}")]
    return [
        Check(
            "Shadeform key",
            True,
            f"works; {count} instances are billing. Like every Shadeform key, it has full rights on "
            "the account: rent, delete, read SSH keys",
        ),
        check_box_key(context.settings, context.instances),
    ]


def check_offers(context: DoctorContext) -> list[Check]:
    """Whether offers exist, whether the limits suffice for them, and what the wallet must hold."""
    if context.api is None:
        return [Check("offers", None, "not checked without SHADEFORM_API_KEY"), _wallet(None)]
    ledger = context.ledger
    expected = forecaster(work_of(context.settings), ledger.readable()[0], read_checks(ledger.home))
    listed, _ = context.api.offers(context.settings.spot)
    found, _ = choose(
        listed,
        wanted_from(context.settings),
        expected=lambda offer: f.likely_cents if (f := expected(offer)) else None,
    )
    if not found:
        return [
            Check(
                "offers",
                None,
                f"none available for {context.settings.num_gpus}x {context.settings.gpu} now",
                "just offers --all-configs",
            ),
            _wallet(None),
        ]
    forecast = expected(found[0])
    return [
        Check(
            "offers",
            True,
            f"{len(found)} for {context.settings.num_gpus}x {context.settings.gpu}, from {dollars(found[0].hourly_cents)}/h",
        ),
        check_money(context.settings.spend_limit, found[0].hourly_cents, forecast),
        *check_time(context.settings.max_duration, forecast),
        _wallet(forecast.likely_cents if forecast else None),
    ]


def _wallet(expected_cents: int | None) -> Check:
    hint = wallet_hint(expected_cents)
    return Check(
        hint.name, None, hint.text, f"check it, and turn off automatic top-up: {BILLING_URL}"
    )


# ------------------------------------------------------------------ the Hub
def check_token(context: DoctorContext) -> list[Check]:
    """The owner and permissions of the token, then write access to the repos that a run writes to."""
    if context.hub is None:
        return [
            Check(
                "Hub token",
                False,
                "HF_TOKEN is not set, and there is no Hub login",
                f"just hf auth login; or {FINE}",
            )
        ]
    try:
        checks = [check_token_scope(context.hub.whoami(), _repo_name(context))]
    except AuthProblem as e:
        return [Check("Hub token", False, str(e), FINE)]
    return checks + [
        _check_write(context.hub, repo)
        for repo in dict.fromkeys((context.settings.hf_repo, context.settings.runs_repo))
        if repo
    ]


def _repo_name(context: DoctorContext) -> str | None:
    """The Hub's own name of HF_REPO: a token's permissions use it."""
    try:
        return context.tree().repo
    except NanolanError:  # another check reports it
        return context.settings.hf_repo


def check_token_scope(who: dict[str, Any], repo: str | None) -> Check:
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
        return Check("Hub token", False, f"works, as {name}, but can only read", FINE)
    if role == "write":
        return Check(
            "Hub token",
            None,
            f"works, as {name}; can write to all your repos, more than a run needs",
            FINE,
        )
    writable = [entity for entity, can_write in scoped if can_write]
    text = f"works, as {name}; fine-grained, can write to {', '.join(writable) or 'nothing'}"
    if repo and not {repo, repo.split("/")[0]} & set(writable):
        return Check(
            "Hub token",
            False,
            f"{text}, which is not {repo}",
            f"give it write access to {repo}: {TOKENS_URL}",
        )
    return Check("Hub token", True, text)


def _check_write(hub: Hub, repo: str) -> Check:
    try:
        hub.check_write(repo)
    except NotFound as e:
        return Check("write access", False, str(e), CREATE)
    except AuthProblem as e:
        return Check("write access", False, str(e), FINE)
    return Check("write access", True, repo)


def check_repo(context: DoctorContext) -> list[Check]:
    """HF_REPO exists, and whether it is public."""
    if context.settings.hf_repo is None:
        return [
            Check(
                "HF_REPO",
                False,
                "not set; it names the repo of your checkpoints",
                "HF_REPO=owner/name in .env; any name: just upload base creates it, private",
            )
        ]
    try:
        tree = context.tree()
    except NotFound as e:
        return [Check("HF_REPO", False, str(e), CREATE)]
    names = [
        Check("repo name", None, text)
        for text in other_names({"HF_REPO": (context.settings.hf_repo, tree.repo)})
    ]
    if tree.private:
        return [*names, Check("HF_REPO", True, f"{tree.repo}, private, {len(tree.files)} files")]
    return [
        *names,
        Check(
            "HF_REPO",
            None,
            f"{tree.repo} is PUBLIC: checkpoints, logs, plan and code of every run will be public, too",
            "RUNS_REPO=owner/private-repo keeps logs, plan and code private",
        ),
    ]


def check_structure(context: DoctorContext) -> list[Check]:
    """Each piece of the expected structure; those that a run of these settings needs must exist."""
    wanted, read = paths_needed(context.settings), paths_read(context.settings)
    return [
        _check_of(
            piece,
            piece.path in (wanted if piece.state == "missing" else read),
            context.settings.phase,
        )
        for piece in context.structure()
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


def check_pickles(context: DoctorContext) -> list[Check]:
    """Pickled files, inspected without running or downloading them; unsafe ones are reported by the structure check."""
    return [
        Check("safe to load", True, f"{piece.path}: {piece.inside}")
        for piece in context.structure()
        if piece.inside and piece.path != IDENTITY_FILE
    ]


def check_identity(context: DoctorContext) -> list[Check]:
    """The identity conversations; errors in them are reported by the structure check."""
    return [
        Check("identity data", True, piece.inside)
        for piece in context.structure()
        if piece.inside and piece.path == IDENTITY_FILE
    ]


def check_datasets(context: DoctorContext) -> list[Check]:
    """The data sets of the settings' phases exist in the expected layout."""
    hub = context.hub or Hub(context.settings.hf_endpoint, None, patience_s=5)
    wanted = context.settings.data_files

    def check(repo: str) -> Check:
        try:
            pinned = pin_dataset(hub, repo, wanted[repo])
        except Unreachable:
            raise  # reported once for all data sets
        except NanolanError as e:
            return Check("data set", False, str(e), "update nanolan: git pull")
        return Check(
            "data set", True, f"{repo}, {len(pinned.files)} files, {size_text(pinned.size)}"
        )

    return _check_all(check, list(wanted))


def _check_all(check: Callable[[str], Check], names: list[str]) -> list[Check]:
    """Concurrently, in daemon threads: a thread pool would block the exit of the program while one of them hangs."""
    return [answer.result() for answer in [start_thread(partial(check, name)) for name in names]]
