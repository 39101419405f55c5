"""just export: the whole command against the local services."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from nanolan.plan import HF_JOB, SKYPILOT, read_plan
from nanolan.run.ledger import Ledger
from nanolan.sim.marker import MARKER
from nanolan.sim.world import REPO, World
from tests.export.test_skypilot import SCHEMA
from tests.support.core_fixtures import script


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, seed_cache: Path) -> Iterator[World]:
    with World(
        tmp_path_factory.mktemp("export"),
        cache=seed_cache,
        trainer="tests.support.standin_trainer",
        setup="light",
    ) as made:
        yield made


def written(world: World) -> int:
    return len(world.hub.files(REPO))


def test_a_skypilot_task_its_run_folder_and_its_entry(world: World, tmp_path: Path) -> None:
    file = tmp_path / "a b.yaml"
    env = world.env() | {"WANDB_API_KEY": f"key{MARKER}"}
    done = script(
        "export",
        "skypilot",
        "phase=sft",
        "gpu=h100:4",
        "price=12.5",
        "--output",
        str(file),
        env=env,
    )
    assert done.returncode == 0 and not done.stdout, done.stderr
    task = yaml.safe_load(file.read_text())
    jsonschema.validate(task, SCHEMA)
    assert task["resources"]["accelerators"] == ["H100:4", "H100-SXM:4"]
    assert task["resources"]["max_hourly_cost"] == 12.5 and not task["resources"]["use_spot"]
    assert task["secrets"] == {"HF_TOKEN": None, "WANDB_API_KEY": None}
    assert f"--secret HF_TOKEN --secret WANDB_API_KEY '{file}'" in done.stderr
    run_id = task["name"].partition("-")[2]
    names = {p for p in world.hub.files(REPO) if p.startswith(f"runs/{run_id}/")}
    assert names == {f"runs/{run_id}/{n}" for n in ("plan.json", "code.bundle", "start.py")}
    plan = read_plan(world.hub.read(REPO, f"runs/{run_id}/plan.json"))
    assert plan.platform == SKYPILOT and plan.offer.hourly_cents == 1250
    entry = Ledger(world.root / "nanolan-home").find(run_id)
    assert entry.plan == plan and not entry.gone and entry.instance_id is None
    assert not world.cloud.requests


def test_a_hugging_face_job(world: World) -> None:
    done = script("export", "hf-job", "phase=sft", "gpu=H200:8", env=world.env())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/sh\n# nanolan run ") and "--flavor h200x8" in done.stdout
    assert "--secrets HF_TOKEN python:3.12 bash -c" in done.stdout
    entry = Ledger(world.root / "nanolan-home").entries()[0]
    assert (entry.plan.platform, entry.plan.offer.hourly_cents) == (HF_JOB, 4001)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("skypilot", "phase=sft", "gpu=H100:8"), 2, "what may the machine cost an hour"),
        (("skypilot", "gpu=H100:8", "price=30", "max-price=24"), 2, "above max-price=24.00"),
        (("skypilot", "gpu=TPU", "price=3"), 2, "Known are: A10, "),
        (("skypilot", "gpu=H100", "price=free"), 2, "not an amount in dollars"),
        (("skypilot", "gpu=H100", "price=0"), 2, "more than 0"),
        (("skypilot", "gpu=H100", "price=-5"), 2, "not an amount in dollars"),
        (("skypilot", "gpu=H100", "price=24", "region=x"), 2, "region= needs cloud="),
        (("skypilot", "gpu=H100", "price=24", "cloud=$(id)"), 2, "not a cloud or region"),
        (("skypilot", "gpu=H100", "price=24", "phase=mid", "spend-limit=3"), 4, "checks failed"),
        (("skypilot", "gpu=H100", "price=24", "run-name=$(id)"), 2, "not a usable name"),
        (("hf-job", "gpu=H100:8"), 2, "no machine with 8x H100"),
        (("hf-job", "gpu=H200:8", "max-price=30"), 2, "above max-price=30.00"),
        (("hf-job", "gpu=H200:8", "--spot"), 2, "SkyPilot's"),
        (("slurm", "gpu=H100"), 2, "is not one of"),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_refused_and_nothing_is_uploaded(
    world: World, words: tuple[str, ...], code: int, says: str
) -> None:
    before = written(world)
    done = script("export", *words, env=world.env())
    assert done.returncode == code and says in done.stderr, done.stderr
    assert not done.stdout and written(world) == before


def test_a_dry_run_uploads_and_writes_nothing(world: World, tmp_path: Path) -> None:
    before = written(world)
    done = script(
        "export",
        "skypilot",
        "phase=sft",
        "gpu=H100:8",
        "price=24",
        "--dry-run",
        f"--output={tmp_path / 'x.yaml'}",
        env=world.env(),
    )
    assert done.returncode == 0 and "DRY RUN: nothing was uploaded or written" in done.stderr
    assert not done.stdout and written(world) == before and not list(tmp_path.iterdir())


def test_no_secret_is_in_any_output_or_file(world: World, tmp_path: Path) -> None:
    env = world.env() | {
        "WANDB_API_KEY": f"wandb-{MARKER}-$(id);|x",
        "NOTIFY_URL": f"ntfy://user:{MARKER}%22$(id)@host/topic",
    }
    for words in (("skypilot", "price=24", "gpu=H100:8"), ("hf-job", "gpu=H200:8")):
        file = tmp_path / words[0]
        done = script("export", *words, "phase=sft", "--output", str(file), env=env)
        assert done.returncode == 0, done.stderr
        run_id = Ledger(world.root / "nanolan-home").entries()[0].plan.run_id
        hub = b"".join(
            world.hub.read(REPO, p)
            for p in world.hub.files(REPO)
            if p.startswith(f"runs/{run_id}/") and not p.endswith("code.bundle")
        )
        text = done.stdout + done.stderr + file.read_text() + hub.decode()
        for name in ("HF_TOKEN", "WANDB_API_KEY", "NOTIFY_URL"):
            assert env[name] not in text and json.dumps(env[name]) not in text
            assert name in file.read_text()
        assert MARKER not in text


def test_another_file_is_not_overwritten_and_an_earlier_export_is(
    world: World, tmp_path: Path
) -> None:
    words = ("skypilot", "phase=sft", "gpu=H100:8", "price=24")
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    before = written(world)
    for file in (tmp_path / "mine.yaml", tmp_path / "no/folder.yaml", tmp_path):
        done = script("export", *words, "--output", str(file), env=world.env())
        assert done.returncode == 2 and written(world) == before, done.stderr
    assert (tmp_path / "mine.yaml").read_text() == "name: mine\n"
    for _ in range(2):
        again = script("export", *words, "--to", str(tmp_path / "own.yaml"), env=world.env())
        assert again.returncode == 0, again.stderr
