"""From a machine's disk to the Hub: once and no more, until the money is gone and no longer, also from a disk that takes nothing."""

from __future__ import annotations

import base64
import errno
import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from nanolan.box.context import BoxRun
from nanolan.box.upload.checkpoint import NOTE_PATIENCE_S, frozen_copy, save, save_the_rest
from nanolan.box.upload.states import StateUploads, remove_states
from nanolan.checkpoint.evaluation import meta_name
from nanolan.checkpoint.manifest import MANIFEST, Manifest, hash_bytes, newest_whole
from nanolan.errors import Unreachable
from nanolan.redact import Secret
from nanolan.run.record import StopReason
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import REPO
from tests.support.saver_fixtures import hub, machine, send, trained  # noqa: F401  # hub: a fixture

SFT = "chatsft_checkpoints/d20"


def sent(box: BoxRun) -> int:
    return len(box.sent)  # type: ignore[attr-defined,no-any-return]


# ---- once


@pytest.mark.parametrize("final", [True, False])
def test_what_an_earlier_life_has_proven_is_not_uploaded_again(
    tmp_path: Path, hub: HubServer, final: bool
) -> None:
    first = machine(tmp_path, hub)
    trained(first, "sft", final=final)
    send(first)
    again = machine(tmp_path, hub)  # the same disk, after a restart
    send(again)
    assert (sent(first), sent(again)) == (1, 0) and again.proofs[0].manifest == first.proofs[
        0
    ].manifest


def test_a_result_that_an_earlier_life_has_not_proven_is_uploaded(
    tmp_path: Path, hub: HubServer
) -> None:
    first = machine(tmp_path, hub)
    trained(first, "sft", step=4, final=False)
    trained(first, "sft", step=5)
    send(first)
    hub.put(REPO, {f"{SFT}/model_000005.pt": b"other bytes"})
    again = machine(tmp_path, hub)
    send(again)
    assert sent(again) == 1 and hub.read(REPO, f"{SFT}/model_000005.pt") == b"sft" * 100


# ---- until


def test_an_upload_is_given_up_when_the_money_is_gone_and_named_as_lost(
    tmp_path: Path, hub: HubServer
) -> None:
    m = machine(tmp_path, hub)
    trained(m, "sft")
    m.meter.give_up = lambda: "$14.00 of $15.00 used"  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match=r"\$14.00"):
        send(m)
    assert (
        m.unsaved == ["sft step 5"] and not m.proofs and m.heartbeat.phases["sft"].state == "failed"
    )


def test_a_state_is_given_up_when_a_newer_one_follows(tmp_path: Path, hub: HubServer) -> None:
    m = machine(tmp_path, hub)
    trained(m, "sft", final=False)
    found = newest_whole(m.out_dir("sft"), "sft")
    assert found
    with pytest.raises(Unreachable, match="a newer one follows"):
        save(m, *found, m.saved("sft"), lambda: True)
    assert save(m, *found, m.saved("sft"), lambda: False).manifest.step == 5


@pytest.mark.parametrize("life_s", [1800.0, 7200.0])
def test_what_the_hub_does_not_hold_is_sent_again_until_the_money_is_gone_and_not_a_moment_less(
    tmp_path: Path, hub: HubServer, life_s: float
) -> None:
    taken: list[float] = []

    def lost(job: object, token: object, *, give_up: object, say: object, **_: object) -> None:
        taken.append(m.deps.clock())
        m.deps.sleep(300)

    m = machine(tmp_path, hub, deps={"transfer": lost})
    m.meter.give_up = lambda: "the money is gone" if m.deps.clock() > life_s else ""  # type: ignore[method-assign]
    trained(m, "sft")
    with pytest.raises(Unreachable, match="the money is gone"):
        send(m)
    assert (
        life_s - 310 < taken[-1] <= life_s
        and len(taken) >= life_s // 310
        and m.unsaved == ["sft step 5"]
    )


def test_the_rest_is_saved_phase_by_phase_whatever_goes_wrong_with_one(
    tmp_path: Path, hub: HubServer
) -> None:
    m = machine(tmp_path, hub, phases=("mid", "sft"))
    trained(m, "sft")
    m.out_dir("mid").parent.mkdir(parents=True)
    m.out_dir("mid").symlink_to(m.out_dir("mid"))  # a folder that cannot be looked into
    save_the_rest(m, set())
    assert [p.folder for p in m.proofs] == [SFT]


OPTIONAL = {
    "an earlier state, for the receipt": lambda m: save_the_rest(m, set()),
    "states that are not needed any more": lambda m: remove_states(m, "sft"),
}


@pytest.mark.parametrize("call", OPTIONAL)
@pytest.mark.parametrize("gone", [False, True])
def test_no_optional_call_waits_for_the_hub_once_the_rest_of_the_money_is_for_deleting(
    tmp_path: Path, call: str, gone: bool
) -> None:
    m = machine(tmp_path, None)  # the Hub refuses connections
    m.meter.must_give_up = lambda: StopReason("spend_limit", "the money is gone") if gone else None  # type: ignore[method-assign]
    m.state.mkdir(parents=True, exist_ok=True)
    (m.state / "attempts-sft").write_text("1")
    start = m.deps.clock()
    OPTIONAL[call](m)
    waited_s = m.deps.clock() - start
    assert waited_s == 0 if gone else waited_s > NOTE_PATIENCE_S / 2


# ---- from a disk that takes nothing


def takes_nothing(box: BoxRun) -> None:
    """No second name can be made: the place for it cannot be had."""
    (box.work / ".sending-sft-5").write_text("in the way")


def test_a_checkpoint_goes_up_from_its_own_place_where_the_disk_has_no_room_for_a_name(
    tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    killed: list[str] = []
    m = machine(tmp_path, hub, deps={"kill": killed.append})
    trained(m, "sft")
    takes_nothing(m)
    send(m)
    assert m.proofs[0].folder == SFT and "is uploaded without a copy" in capsys.readouterr().out
    assert killed == [m.plan.run_id], "nobody may change it meanwhile"


def test_a_state_of_a_trainer_that_runs_never_goes_up_from_its_own_place(
    tmp_path: Path, hub: HubServer
) -> None:
    killed: list[str] = []
    m = machine(tmp_path, hub, deps={"kill": killed.append})
    trained(m, "sft", final=False)
    takes_nothing(m)
    with pytest.raises(OSError):
        StateUploads(m, "sft").send()
    found = newest_whole(m.out_dir("sft"), "sft")
    assert found and not killed and not sent(m)
    with frozen_copy(m, "sft", *found) as folder:
        assert folder == found[0]


# ---- secrets in what a trainer wrote

META = {
    "a string": lambda v: {"user_config": {"run": v}},
    "a key of it": lambda v: {v: 1},
    "in a list": lambda v: {"args": ["--key", v]},
    "in base64": lambda v: {"env": base64.b64encode(b"user:" + v.encode()).decode()},
}


@pytest.mark.parametrize("where", META)
@pytest.mark.parametrize("final", [True, False])
def test_a_secret_in_a_meta_is_masked_and_the_checkpoint_is_proven(
    tmp_path: Path, hub: HubServer, where: str, final: bool
) -> None:
    value = "sf-" + "9aZ4kP2mX8" * 2
    m = machine(tmp_path, hub)
    trained(m, "sft", final=final)
    folder, manifest = newest_whole(m.out_dir("sft"), "sft", final=final) or (Path(), None)
    assert manifest
    meta = json.dumps({"step": manifest.step, "val_bpb": 0.5, **META[where](value)}).encode()
    write_meta(folder, manifest, meta)
    Secret(value)
    send(m)
    place = m.target("sft") if final else m.saved("sft")
    there = json.loads(hub.read(REPO, f"{place}/{meta_name(manifest)}"))
    assert there["val_bpb"] == 0.5 and "***" in str(there) and value not in str(there)
    assert (
        m.proofs[0].manifest.step == manifest.step
        and (folder / meta_name(manifest)).read_bytes() == meta
    )


def test_a_meta_without_a_secret_goes_as_the_trainer_wrote_it(
    tmp_path: Path, hub: HubServer
) -> None:
    m = machine(tmp_path, hub)
    trained(m, "sft")
    folder, manifest = newest_whole(m.out_dir("sft"), "sft") or (Path(), None)
    assert manifest
    write_meta(folder, manifest, b'{"step":5,\n"odd   layout":1}')
    send(m)
    assert (
        hub.read(REPO, f"{m.target('sft')}/{meta_name(manifest)}")
        == b'{"step":5,\n"odd   layout":1}'
    )


def write_meta(folder: Path, manifest: Manifest, meta: bytes) -> None:
    name = meta_name(manifest)
    (folder / name).write_bytes(meta)
    files = (*(f for f in manifest.files if f.path != name), hash_bytes(name, meta))
    (folder / MANIFEST).write_text(replace(manifest, files=files).to_json())


@pytest.mark.parametrize(
    "number, lasts_s, saved",
    [
        (errno.EMFILE, 60, True),
        (errno.ENOMEM, 60, True),
        (errno.EAGAIN, 60, True),
        (errno.EMFILE, 10**6, False),
        (errno.EIO, 60, False),
    ],
)
def test_a_machine_that_is_short_of_something_for_a_while_loses_nothing(
    tmp_path: Path, hub: HubServer, number: int, lasts_s: float, saved: bool
) -> None:
    def transfer(*args: object, **how: object) -> None:
        if m.deps.clock() < lasts_s:
            raise OSError(number, "short")
        whole(*args, **how)

    whole = machine(tmp_path, hub).deps.transfer
    m = machine(tmp_path, hub, deps={"transfer": transfer})
    trained(m, "sft")
    save_the_rest(m, set())
    assert ([p.folder for p in m.proofs], m.unsaved) == (
        ([SFT], []) if saved else ([], ["sft step 5"])
    )


def test_a_whole_step_that_cannot_be_looked_at_for_a_while_is_not_called_damaged(
    tmp_path: Path, hub: HubServer
) -> None:
    m = machine(tmp_path, hub)
    trained(m, "sft")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    object.__setattr__(m.deps, "sleep", sleep)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        save_the_rest(m, set())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert waits and m.proofs[0].folder == SFT
