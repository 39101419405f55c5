"""Fuzzed: what Shadeform answers, .env, plans, manifests, what a run tells of itself. Only NanolanError may come out of a reader."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

from nanolan.checkpoint.manifest import Manifest, hash_bytes, parse_manifest
from nanolan.cost import spending
from nanolan.errors import NanolanError
from nanolan.hub.client import Tree
from nanolan.hub.proof import prove
from nanolan.launch.request import create_body, startup_script
from nanolan.plan import PinnedFile, Predicted, check_names, read_plan
from nanolan.redact import Secret, printable
from nanolan.report import model_card
from nanolan.run import postmortem
from nanolan.run.causes import cause_of
from nanolan.run.find import checked_plan
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.postmortem import exception_of, stacks_of
from nanolan.run.record import read_progress, read_receipt
from nanolan.settings.env_lines import read_env
from nanolan.settings.load import load_settings, usable_settings
from nanolan.settings.settings import FIELDS, Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.offer_table import table
from nanolan.shadeform.ssh import has_address, ssh_argv
from nanolan.sim.shadeform.sample_offers import SAMPLE
from nanolan.status import closeup, text, why
from nanolan.status.as_json import to_dict as overview_dict
from nanolan.status.logs import shown, to_lines
from nanolan.status.view import Overview, RunView
from tests.fuzz.made import SCREEN, WORDS, as_json, cut
from tests.support.core_fixtures import PLAN, a_plan

# ------------------------------------------------------------------ the API
INSTANCE = {
    "id": "i-1",
    "name": "lanbot-sft-20261123-1200-ab12cd34",
    "status": "active",
    "cloud": "c",
    "region": "r",
    "ip": "192.0.2.1",
    "hourly_price": 100,
    "cost_estimate": "1.50",
    "created_at": "2026-11-23T12:00:00Z",
    "ssh_user": "shadeform",
    "ssh_port": 22,
    "tags": ["nanolan", "nanolan-run=ab12cd34", "nanolan-attempt=1"],
    "shade_cloud": True,
    "status_details": "x",
    "configuration": {"num_gpus": 8, "gpu_type": "B200", "os_options": []},
    "auto_delete": {"spend_threshold": "150.00"},
}
ANSWERS: dict[str, Any] = {
    "offers": {"instance_types": SAMPLE[:2]},
    "instances": {"instances": [INSTANCE, INSTANCE]},
    "info": INSTANCE,
    "private_key": {
        "ssh_keys": [
            {
                "id": "k",
                "name": "n",
                "is_default": True,
                "public_key": "ssh-ed25519 AAAA",
                "private_key": "x",
            }
        ]
    },
    "create": {"id": "i-1"},
    "delete": {},
}


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, int, bytes, dict[str, str]]:
    name = draw(st.sampled_from(sorted(ANSWERS)))
    status = draw(
        st.sampled_from([200, 200, 200, 200, 201, 204, 302, 400, 401, 404, 409, 429, 500, 503])
    )
    error = {
        "error": draw(WORDS),
        "error_code": draw(st.sampled_from(["OUT_OF_STOCK", "INSUFFICIENT_FUNDS", "x", ""])),
    }
    body = draw(
        st.one_of(
            as_json(ANSWERS[name]),
            as_json(error),
            st.binary(max_size=40),
            SCREEN.map(lambda t: t.encode(errors="replace")),
        )
    )
    return name, status, body, {"Retry-After": draw(WORDS)}


def api(given: tuple[str, int, bytes, dict[str, str]]) -> None:
    """Offers have a price, what is shown fits the screen and drives no terminal, ssh gets no option of the API's."""
    name, status, body, headers = given
    answer = SimpleNamespace(
        status_code=status, content=body, text=body.decode(errors="replace"), headers=headers
    )
    session = SimpleNamespace(request=lambda *a, **k: answer, trust_env=False)
    client = Shadeform(
        Secret("key-0123456789"), "http://127.0.0.1:1/v1", session=session, sleep=lambda s: None
    )  # type: ignore[arg-type]
    calls = {"info": ("i/../x",), "private_key": (None,), "create": ({},), "delete": ("i",)}
    try:
        found: Any = getattr(client, name)(*calls.get(name, ()))
    except NanolanError as e:
        assert "key-0123456789" not in str(e) and len(str(e)) < 2000
        return
    if name == "offers":
        assert all(o.hourly_cents > 0 for o in found[0])
        lines = table(found[0], lambda o: o.hourly_cents)
        assert all(len(printable(line)) <= 80 for line in lines)
    for i in found if name == "instances" else [found] if name == "info" else []:
        i.cost_now_cents(), i.run_id, i.attempt, i.owner, i.billing  # noqa: B018
        shown = "\n".join(
            map(printable, text.render(Overview((a_view(instance=i),), (i,), (i,), ())))
        )
        assert "\x1b" not in shown and "\u202e" not in shown and "\x07" not in shown
        if has_address(i):
            argv = ssh_argv(i, None, Path("/tmp"))
            assert argv[-2] == "--" and not argv[-1].startswith("-")


# ------------------------------------------------------------------ .env
LINE = st.one_of(
    st.builds(
        "{}={}".format,
        st.sampled_from(
            [
                "HF_REPO",
                "RUN_NAME",
                "GPU",
                "SPEND_LIMIT",
                "HF_TOKEN",
                "NOTIFY_URL",
                "export HF_TOKEN",
                "X",
                "SHADEFORM_API",
            ]
        ),
        st.one_of(
            WORDS,
            st.text(max_size=20),
            st.sampled_from(["me/repo", "'a' 'b", '"a\\nb"', "${HOME}", "$(touch pwned)", "a # b"]),
        ),
    ),
    SCREEN,
    st.sampled_from(["export", "=", "A", "'", '"', "# x", "A='\n'", "\ufeffA=1"]),
)
ENV = (
    st.tuples(st.lists(LINE, max_size=8), st.sampled_from(["\n", "\r\n", "\r"]))
    .map(lambda t: t[1].join(t[0]).encode("utf-8", "replace"))
    .flatmap(cut)
)


def env(data: bytes) -> None:
    """Nothing in it is run or expanded; a setting holds what its pattern admits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ".env"
        path.write_bytes(data)
        try:
            values = read_env(path, FIELDS).values
            assert not any(
                v and (os.environ["PATH"] in v or v == str(Path.home())) for v in values.values()
            )
            settings: Settings = usable_settings({}, {}, path, lambda: None)[0]
            text = repr(settings)
            assert text.isprintable() and "hf_token=***" in text or not settings.hf_token
            load_settings({}, {}, env_file=path)
        except NanolanError as e:
            assert len(str(e)) < 2000
        assert [p.name for p in Path(folder).iterdir()] == [".env"]


# ------------------------------------------------------------------ plan
GOOD_PLAN = json.loads(
    a_plan(
        predicted=Predicted(1, 2, 3, {"sft": 3}, {"boot": 1}), recipe={"lr": 1, "sft": {"lr": 2}}
    ).to_json()
)
SETTINGS = load_settings(
    {"hf_repo": PLAN.hf_repo, "hf_endpoint": PLAN.hf_endpoint, "shadeform_api": PLAN.shadeform_api},
    {},
)


def plan(data: bytes) -> None:
    """What is read is read the same again, and can be shown; what a launch could not have made is refused."""
    try:
        found = read_plan(data)
    except NanolanError:
        return
    assert read_plan(found.to_json()) == found
    try:
        checked = checked_plan(data, PLAN.run_id, PLAN.runs_repo, SETTINGS)
        body = create_body(checked, startup_script(checked, {"HF_TOKEN": "x"}, "main"))
        assert body["name"].isascii() and "\n" not in body["name"] and checked.limit_cents > 0
        text.render(Overview((RunView(Entry(checked), "training"),), (), (), ()))
    except NanolanError:
        pass
    try:
        for pinned in (*found.inputs, *found.datasets):
            check_names(f.path for f in pinned.files)
            for f in pinned.files:
                assert (Path("/base") / f.path).resolve().is_relative_to("/base/")
    except NanolanError:
        pass


# ------------------------------------------------------------------ manifest
FILES = tuple(hash_bytes(n, n.encode()) for n in ("model_000005.pt", "meta_000005.json"))
GOOD_MANIFEST = json.loads(Manifest("ab12cd34", "sft", 5, FILES, extra={"loss_end": 1.0}).to_json())


def manifest(data: bytes) -> None:
    """What is read names plain files alone, is written the same again, and proves nothing that is not there."""
    try:
        found = parse_manifest(data)
    except NanolanError as e:
        assert len(str(e)) < 2000
        return
    assert all(
        "/" not in f.path and "\\" not in f.path and f.path not in (".", "..", "")
        for f in found.files
    )
    assert parse_manifest(found.to_json()) == found or "NaN" in found.to_json()
    tree = Tree(
        "r",
        "model",
        "m",
        True,
        {
            f"f/{n}": PinnedFile(f"f/{n}", f.size, f.sha256, f.git_sha1)
            for n, f in (("manifest.json", FILES[0]), *((f.path, f) for f in FILES))
        },
    )
    try:
        assert {f.path for f in prove(tree, "f", found).manifest.files} <= {f.path for f in FILES}
    except NanolanError:
        pass


# ------------------------------------------------------------------ what a run tells, and its log
RECEIPT = {
    "run_id": "ab12cd34",
    "verdict": "failed",
    "reason": "oom",
    "message": "out of memory. Go on: just resume ab12cd34",
    "phases": {
        "sft": {
            "state": "proven",
            "folder": "f",
            "step": 3,
            "loss_start": 2.0,
            "measured": {"val_loss": 1.0, "mmlu_acc": 0.3},
        }
    },
    "log": "logs/x.log",
    "spent_cents": 5,
    "seconds": 10,
    "ended": "2026-11-23T12:00:00Z",
    "metered_cents": 4,
    "provider_cents": 4,
    "stages": {"boot": 1, "sft.train": 5},
    "phase_cents": {"sft": 3},
    "predicted": {"low_cents": 1, "likely_cents": 2, "high_cents": 3},
}
PROGRESS = {
    "run_id": "ab12cd34",
    "state": "training",
    "phases": RECEIPT["phases"],
    "updated": "2026-11-23T12:00:00Z",
    "step": 5,
    "steps": 10,
    "loss": 1.5,
    "tok_per_s": 1e5,
    "left_s": 100.0,
    "phase_left_s": 50.0,
    "phase": "sft",
    "spent_cents": 3,
    "limit_cents": 9,
}
BOX = {
    "run_id": "ab12cd34",
    "reason": "oom",
    "cause": "x",
    "log": ["a"],
    "seen": {"kernel": ["x"], "disk": {"free_gb": 1}},
    "exception": ["x"],
}


def a_view(**known: Any) -> RunView:
    """A run as status sees it."""
    return RunView(Entry(PLAN, "i-1"), "training", **known)


def told(given: tuple[bytes, bytes, bytes, str]) -> None:
    """Whatever the run folder holds: status, why and costs have something to say, on a screen of 80 columns."""
    receipt, progress, box = (
        _read(read_receipt, given[0]),
        _read(read_progress, given[1]),
        _read(postmortem.read_postmortem, given[2]),
    )
    for v in (
        a_view(progress=progress, spent_cents=5),
        RunView(
            Entry(PLAN, "i-1", gone=True, receipt=receipt),
            "failed",
            receipt=receipt,
            phases=receipt.phases if receipt else {},
            log_tail=tuple(to_lines(given[3])),
        ),
    ):
        shown = "\n".join(map(printable, text.render(Overview((v,), (), (), ()))))
        assert "\x1b" not in shown and "\u202e" not in shown
        json.dumps(overview_dict(Overview((v,), (), (), ())))
        json.dumps(why.to_dict(why.answer(v, box, given[3])))
        why.render(why.answer(v, box, given[3]))
        spending.render([v.entry])
        if receipt:
            model_card.new_card(given[3], PLAN, receipt, {"f"})
    Ledger(Path("/nonexistent")).readable()


def _read(read: Any, data: bytes) -> Any:
    try:
        return read(data)
    except NanolanError as e:
        assert len(str(e)) < 2000
        return None


def log(text: str) -> None:
    """Causes, exceptions and stacks are found in any log, and no line of it drives a terminal."""
    cause_of(text), exception_of(text.splitlines()), stacks_of(text.splitlines())
    closeup.newer(read_progress(json.dumps(PROGRESS).encode()), text)
    for line in to_lines(text):
        assert printable(shown(line)).isprintable()


PLANS, MANIFESTS = as_json(GOOD_PLAN), as_json(GOOD_MANIFEST)
TOLD = st.tuples(as_json(RECEIPT), as_json(PROGRESS), as_json(BOX), SCREEN)
