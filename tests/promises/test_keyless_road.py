"""The whole road without a Shadeform key on the machine: launch, the box, a real guard beside it, and the bill's end."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from nanolan.run.ledger import Ledger
from nanolan.sim.box import marked
from nanolan.sim.world import REPO, World
from tests.promises.test_road import QUICK
from tests.support.box_fixtures import environ
from tests.support.core_fixtures import script, started, until

KEY = f"sf-{uuid.uuid4().hex}"  # not written in this file, which is part of the code that a machine gets


@pytest.fixture
def world(tmp_path: Path, seed_cache: Path) -> Iterator[World]:
    with World(
        tmp_path,
        cache=seed_cache,
        trainer="tests.support.standin_trainer",
        setup="light",
        recipe={"steps": 4, "seconds": 6.0},
        delays=QUICK,
        key=KEY,
    ) as made:
        yield made


def holds_key(text: bytes) -> bool:
    """Whether the key is in there, in clear or in base64 at any alignment."""
    forms = [KEY.encode(), *(base64.b64encode(b"x" * n + KEY.encode())[4:-4] for n in range(3))]
    return any(form in text for form in forms)


@pytest.mark.slow
def test_the_run_ends_the_guard_deletes_its_machine_and_the_key_was_never_on_it(
    world: World,
) -> None:
    seen: list[bytes] = []
    with started("guard", "1", "--until-none", "--any-owner", env=world.env()) as early:
        assert early.wait(30) == 0, "nothing was there yet"
    launched = script(
        "launch", "phase=sft", "self-delete=off", "--yes", "--json", env=world.env(), timeout=120
    )
    assert launched.returncode == 0 and "No Shadeform key" not in launched.stdout, launched.stderr
    assert (
        "key on the machine: none" in launched.stderr
        and "WITHOUT A GUARD IT BILLS UNTIL" in launched.stderr
    )
    instance = world.cloud.instance(json.loads(launched.stdout)["instance_id"])
    box = world.cloud.root / "boxes" / instance.id
    log = box / "var/log/lanbot-training.log"

    def look() -> bool:
        """What is in the machine's processes now; True once it waits."""
        for p in marked({instance.id}):
            with suppress(psutil.Error):
                seen.append(json.dumps([environ(p), p.cmdline()]).encode())
        return "it waits for just guard" in log.read_text()

    asked = len(world.cloud.requests)
    until(look, 60)
    assert instance.status == "active" and len(seen) >= 2 and len(world.cloud.requests) == asked, (
        "the machine asks Shadeform nothing"
    )
    guarded = script("guard", "1", "--until-none", env=world.env(), timeout=60)
    assert (
        guarded.returncode == 0
        and "its run is over (succeeded)" in guarded.stdout
        and "is gone" in guarded.stdout
    ), guarded.stderr
    assert instance.why == "asked" and instance.status in ("deleting", "deleted")
    until(lambda: not marked({instance.id}))

    on_it = [path for path in box.rglob("*") if path.is_file() and "code/.venv" not in str(path)]
    assert {"secrets.json", "plan.json", "boot.sh"} & {path.name for path in on_it} and len(
        on_it
    ) > 20
    assert [path for path in on_it if holds_key(path.read_bytes())] == [] and not any(
        map(holds_key, seen)
    )
    assert not holds_key(
        base64.b64decode(
            instance.spec["launch_configuration"]["script_configuration"]["base64_script"]
        )
    )
    assert "SHADEFORM_API_KEY" not in json.loads((box / "root/.nanolan/secrets.json").read_bytes())
    assert "chatsft_checkpoints/d20/model_000004.pt" in world.hub.files(REPO)
    (entry,) = Ledger(world.root / "nanolan-home").entries()
    assert entry.gone and entry.receipt and entry.receipt.verdict == "succeeded"


def test_the_key_would_be_found_if_it_were_there() -> None:
    assert holds_key(b"x" + KEY.encode()) and all(
        holds_key(base64.b64encode(b"y" * n + KEY.encode() + b"z")) for n in range(5)
    )
