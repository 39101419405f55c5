"""The checks before renting: all of them run, each failure names a fix, and the inputs are pinned."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nanolan.checklist import Check
from nanolan.checkpoint.manifest import Manifest, hash_bytes
from nanolan.checkpoint.model_size import ModelSize
from nanolan.launch.preflight import (
    check_memory,
)
from nanolan.sim.hub.server import HubServer
from tests.checkpoint.test_parquet import SCHEMAS, written
from tests.support.preflight_fixtures import (
    BASE,
    FILES,
    META,
    MID,
    MODEL,
    PROVEN,
    READER,
    REPO,
    RUNS,
    TOKENIZER,
    failed,
    look,
    server,  # noqa: F401  # a fixture
    text_of,
)


def test_everything_there_is_pinned_by_revision_size_and_hash(server: HubServer) -> None:
    found = look(server)
    assert not found.failed and not found.public
    head = server.store.load("model", REPO).at("main")  # type: ignore[union-attr]
    files = {f.path: f for pinned in found.inputs for f in pinned.files}
    assert set(files) == {
        f"{MID}/model_000007.pt",
        f"{MID}/meta_000007.json",
        f"{MID}/manifest.json",
        *TOKENIZER,
        "identity_conversations.jsonl",
    }, "no optimizer, nothing of other folders"
    assert {pinned.revision for pinned in found.inputs} == {head.oid} and found.inputs[0].proven
    model = files[f"{MID}/model_000007.pt"]
    assert (model.size, model.sha256) == (len(MODEL), server.files(REPO)[model.path].sha256)
    assert {d.repo for d in found.datasets} == {
        "allenai/ai2_arc",
        "openai/gsm8k",
        "HuggingFaceTB/smol-smoltalk",
    }
    assert found.size and found.size.n_params == 2 * 265 * 8 + 12 * 64, (
        "by the meta, also of a checkpoint with a manifest"
    )
    assert "ARC-Challenge/test-0.parquet" in {f.path for d in found.datasets for f in d.files}
    assert all(c.line().isascii() for c in found.checks)


def test_a_checkpoint_without_a_manifest_is_accepted_and_shown_as_unproven(
    server: HubServer,
) -> None:
    server.put(
        REPO,
        {
            f"{BASE}/model_000003.pt": b"older",
            f"{BASE}/old/model_000099.pt": b"elsewhere",
            f"{BASE}/meta_000099.json": META,
        },
    )
    found = look(server, phase="mid")
    assert not found.failed and "unproven" in text_of(found, "input checkpoint")
    assert {f.path for f in found.inputs[0].files} == {
        f"{BASE}/model_000007.pt",
        f"{BASE}/meta_000007.json",
    }, "the newest step"
    assert not found.inputs[0].proven
    assert {d.repo for d in found.datasets} == {
        "HuggingFaceTB/smol-smoltalk",
        "cais/mmlu",
        "openai/gsm8k",
    }


Change = Callable[[HubServer], object]


def without(server: HubServer, *paths: str, repo: str = REPO, typ: str = "model") -> None:
    """Take files out of the newest revision."""
    loaded = server.store.load(typ, repo)
    assert loaded
    for path in paths:
        for name in [p for p in loaded.at("main").files if p.startswith(path)]:
            del loaded.at("main").files[name]
    server.store.save(loaded)


def manifest_without_meta(hub: HubServer) -> None:
    hub.put(
        REPO,
        {f"{MID}/manifest.json": Manifest("r", "mid", 7, PROVEN.files[1:2]).to_json().encode()},
    )


def proven_with_other_meta(hub: HubServer) -> None:
    files = FILES | {"meta_000007.json": b"{}"}
    manifest = Manifest(
        "r", "mid", 7, tuple(hash_bytes(name, data) for name, data in sorted(files.items()))
    )
    hub.put(
        REPO,
        {f"{MID}/meta_000007.json": b"{}", f"{MID}/manifest.json": manifest.to_json().encode()},
    )


def manifest_without_model(hub: HubServer) -> None:
    hub.put(
        REPO, {f"{MID}/manifest.json": Manifest("r", "mid", 7, PROVEN.files[:1]).to_json().encode()}
    )


@pytest.mark.parametrize(
    "phase, change, name, says",
    [
        (
            "sft",
            lambda hub: without(hub, MID),
            "input checkpoint",
            "has no mid_checkpoints/d20/.*just upload mid",
        ),
        (
            "sft",
            lambda hub: hub.put(REPO, {f"{MID}/model_000007.pt": MODEL[:-1]}),
            "input checkpoint",
            "not complete.*just verify --adopt",
        ),
        (
            "sft",
            lambda hub: hub.put(REPO, {f"{MID}/model_000007.pt": MODEL[:-1] + b"!"}),
            "input checkpoint",
            "not complete",
        ),
        (
            "sft",
            lambda hub: without(hub, f"{MID}/meta"),
            "input checkpoint",
            "meta_000007.json is missing",
        ),
        (
            "sft",
            lambda hub: hub.put(REPO, {f"{MID}/manifest.json": b"{"}),
            "input checkpoint",
            "not a manifest",
        ),
        ("sft", manifest_without_model, "input checkpoint", "lists no model_SSSSSS.pt"),
        ("sft", manifest_without_meta, "input checkpoint", "no meta_000007.json.*upload both"),
        (
            "sft",
            proven_with_other_meta,
            "input checkpoint",
            "meta_000007.json: has no model_config",
        ),
        (
            "mid",
            lambda hub: hub.put(REPO, {f"{BASE}/model_000007.pt": MODEL[:2000]}),
            "input checkpoint",
            "cut off",
        ),
        (
            "mid",
            lambda hub: hub.put(REPO, {f"{BASE}/model_000008.pt": MODEL}),
            "input checkpoint",
            "no meta_000008.json.*upload both, or start from step 7",
        ),
        (
            "mid",
            lambda hub: hub.put(REPO, {f"{BASE}/meta_000007.json": b"{}"}),
            "input checkpoint",
            "has no model_config",
        ),
        (
            "mid",
            lambda hub: without(hub, f"{BASE}/model"),
            "input checkpoint",
            "holds no model_SSSSSS.pt",
        ),
        (
            "sft",
            lambda hub: without(hub, "tokenizer/tokenizer.pkl"),
            "tokenizer",
            "no tokenizer/tokenizer.pkl.*just upload tokenizer",
        ),
        (
            "sft",
            lambda hub: without(hub, "main/test", repo="openai/gsm8k", typ="dataset"),
            "data set openai/gsm8k",
            r"no main/test-\*.parquet",
        ),
        (
            "mid",
            lambda hub: hub.put(
                "openai/gsm8k", {"main/train-0.parquet": written(SCHEMAS["mmlu"])}, typ="dataset"
            ),
            "data set openai/gsm8k",
            "openai/gsm8k/main/train-0.parquet: the column answer of gsm8k holds INT64 instead of text",
        ),
        (
            "mid",
            lambda hub: hub.put(
                "cais/mmlu",
                {"auxiliary_train/train-0.parquet": written(SCHEMAS["gsm8k"])},
                typ="dataset",
            ),
            "data set cais/mmlu",
            "lacks the column choices of mmlu",
        ),
        (
            "sft",
            lambda hub: hub.put(
                "openai/gsm8k",
                {"main/test-0.parquet": b"version https://git-lfs.github.com/spec/v1"},
                typ="dataset",
            ),
            "data set openai/gsm8k",
            "a git-lfs pointer",
        ),
        (
            "sft",
            lambda hub: hub.store.delete("dataset", "openai/gsm8k"),
            "data set openai/gsm8k",
            "the Hub has no dataset openai/gsm8k",
        ),
    ],
    ids=[
        "no checkpoint",
        "cut off",
        "other bytes",
        "no meta",
        "no manifest",
        "no model in it",
        "no meta in it",
        "other meta",
        "by hand cut off",
        "by hand no meta",
        "by hand other meta",
        "by hand no model",
        "no tokenizer",
        "a data file",
        "other columns",
        "columns of another",
        "a pointer for data",
        "a data set",
    ],
)
def test_a_missing_or_damaged_input_fails_its_check_and_says_what_to_do(
    server: HubServer, phase: str, change: Change, name: str, says: str
) -> None:
    change(server)
    found = look(server, phase=phase)
    assert list(failed(found)) == [name], "the other checks ran, and passed"
    assert re.search(says, failed(found)[name])


def test_a_read_only_token_fails_before_anything_is_sent(server: HubServer) -> None:
    found = look(server, READER)
    assert (
        list(failed(found)) == ["Hub token"]
        and "HF_TOKEN" in failed(found)["Hub token"]
        and READER not in str(found)
    )
    assert not [line for line in server.log if line["method"] == "POST"]


def test_a_repo_that_is_not_there_says_how_to_make_it(server: HubServer) -> None:
    found = look(server, hf_repo="me/nothing")
    assert "just upload base" in failed(found)["Hub repo"] and "Hub token" in failed(found)
    assert found.datasets, "the data sets were looked at all the same"


def test_without_identity_data_sft_goes_on_and_mid_does_not(server: HubServer) -> None:
    without(server, "identity")
    found = look(server)
    assert not found.failed and "training continues without it" in text_of(found, "identity data")
    assert "just identity name=" in failed(look(server, phase="mid"))["identity data"]
    assert not look(server, phase="mid", no_identity="yes").failed


def test_identity_data_that_is_there_can_be_left_out(server: HubServer) -> None:
    found = look(server, phase="mid", no_identity="yes")
    assert "left out (--no-identity)" in text_of(found, "identity data")
    assert not any("identity" in f.path for p in found.inputs for f in p.files)


@pytest.mark.parametrize(
    "flags, judged",
    [({"eval": "none"}, False), ({"eval": "quick"}, True), ({"eval": "full"}, True)],
)
def test_the_test_files_of_the_evaluation_are_pinned_when_there_is_one(
    server: HubServer, flags: dict[str, str], judged: bool
) -> None:
    pinned = {f.path for p in look(server, **flags).datasets for f in p.files}
    assert (
        "all/test-0.parquet" in pinned
    ) == judged and "auxiliary_train/train-0.parquet" not in pinned
    assert not any("humaneval" in path for path in pinned)


def test_humaneval_is_pinned_on_request_only(server: HubServer) -> None:
    assert any(
        "humaneval" in f.path
        for p in look(server, eval="quick", humaneval="yes").datasets
        for f in p.files
    )


@pytest.mark.parametrize(
    "hf_private, runs_private, says",
    [
        (True, None, []),
        (False, None, ["me/lanbot is PUBLIC: checkpoints, logs, plan, code .*RUNS_REPO="]),
        (True, True, []),
        (False, True, ["me/lanbot is PUBLIC: checkpoints of this run will be too$"]),
        (True, False, ["me/runs is PUBLIC: logs, plan, code .*RUNS_REPO="]),
        (
            False,
            False,
            ["me/lanbot is PUBLIC: checkpoints of", "me/runs is PUBLIC: logs, plan, code"],
        ),
    ],
)
def test_what_becomes_public_is_said(
    server: HubServer, hf_private: bool, runs_private: bool | None, says: list[str]
) -> None:
    loaded = server.store.load("model", REPO)
    assert loaded
    loaded.private = hf_private
    server.store.save(loaded)
    if runs_private is not None:
        server.put(RUNS, {"README.md": b"#"}, private=runs_private)
    found = look(server, **({} if runs_private is None else {"runs_repo": RUNS}))
    texts = [c.text for c in found.checks if c.name == "privacy"]
    assert found.public == bool(says) and len(texts) == len(says) and not found.failed
    assert all(re.search(pattern, text) for pattern, text in zip(says, texts, strict=True))


def test_a_runs_repo_that_is_not_there_fails(server: HubServer) -> None:
    assert {"Hub token", "runs repo"} == set(failed(look(server, runs_repo="me/nothing")))


def test_all_looks_run_at_the_same_time(server: HubServer) -> None:
    server.fault("GET ", "stall", seconds=0.4, times=6)
    started = time.monotonic()
    assert not look(server).failed
    assert time.monotonic() - started < 1.5


def test_a_hub_that_does_not_answer_fails_the_checks_in_plain_words(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub") as gone:
        pass
    found = look(gone)
    assert found.failed and all(
        "the Hub cannot be reached" in text for text in failed(found).values()
    )


def test_a_model_that_does_not_fit_the_gpus_is_refused_before_renting() -> None:
    d32 = ModelSize(65_536, 32, 2048)
    check = check_memory(d32, "A100", 40)
    assert (
        check.ok is False
        and "1879M parameters" in check.text
        and "needs 41 GiB" in check.text
        and "nothing was rented" in check.text
    )
    assert check_memory(d32, "H100", 80) == Check(
        "GPU memory", True, "1,879M parameters on 80 GB: 8 rows at a time"
    )
