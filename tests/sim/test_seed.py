"""What a rehearsal starts from: a tiny model repository and data sets in the real schemas."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanolan.checkpoint.manifest import parse_manifest
from nanolan.phases import DATASETS, IDENTITY_FILE
from nanolan.sim.hub.server import HubServer
from nanolan.sim.seed import seed

REPO = "me/lanbot-checkpoints"
TEXT, TEXTS = pa.string(), pa.list_(pa.string())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seed_cache")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        seed(server, REPO, cache=cache)
        yield server


def tables(hub: HubServer, name: str) -> list[pa.Table]:
    """The data set's train (if it has one) and test tables, found as the trainer finds them."""
    data = DATASETS[name]
    out = []
    for pattern in filter(None, (data.train, data.test)):
        [path] = [p for p in hub.files(data.repo, "dataset") if fnmatch(p, pattern)]
        out.append(pq.read_table(io.BytesIO(hub.read(data.repo, path, "dataset"))))
    return out


def rows(hub: HubServer, name: str) -> list[dict[str, Any]]:
    train, test = tables(hub, name)
    assert train.num_rows >= 50 and test.num_rows >= 20
    return [r.get("train") or r for r in train.to_pylist() + test.to_pylist()]


def test_the_model_repository_is_private_and_has_the_guides_layout(hub: HubServer) -> None:
    repo = hub.store.load("model", REPO)
    assert repo and repo.private
    assert set(hub.files(REPO)) == {
        ".gitattributes",
        IDENTITY_FILE,
        "tokenizer/tokenizer.pkl",
        "tokenizer/token_bytes.pt",
        "base_checkpoints/d20/model_000010.pt",
        "base_checkpoints/d20/meta_000010.json",
        "mid_checkpoints/d20/model_000010.pt",
        "mid_checkpoints/d20/meta_000010.json",
        "mid_checkpoints/d20/manifest.json",
    }


def test_the_mid_checkpoint_is_proven_by_its_manifest(hub: HubServer) -> None:
    manifest = parse_manifest(hub.read(REPO, "mid_checkpoints/d20/manifest.json"))
    assert (manifest.run_id, manifest.phase, manifest.step, manifest.final) == (
        "00000000",
        "mid",
        10,
        True,
    )
    files = hub.files(REPO)
    for f in manifest.files:
        blob = files[f"mid_checkpoints/d20/{f.path}"]
        assert (blob.size, blob.sha256) == (f.size, f.sha256)
        assert blob.lfs or blob.oid == f.git_sha1
    assert {f.path for f in manifest.files} == {"model_000010.pt", "meta_000010.json"}


def test_identity_conversations_alternate_from_the_user(hub: HubServer) -> None:
    lines = hub.read(REPO, IDENTITY_FILE).decode().splitlines()
    assert len(lines) == 40
    for line in lines:
        messages = json.loads(line)
        assert len(messages) >= 2
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert all(isinstance(m["content"], str) and m["content"] for m in messages)


ARC = {
    "id": TEXT,
    "question": TEXT,
    "choices": pa.struct([("text", TEXTS), ("label", TEXTS)]),
    "answerKey": TEXT,
}
MMLU = {"question": TEXT, "subject": TEXT, "choices": TEXTS, "answer": pa.int64()}
SCHEMAS: dict[str, tuple[dict[str, pa.DataType], ...]] = {
    "smol-smoltalk": (
        {"messages": pa.list_(pa.struct([("content", TEXT), ("role", TEXT)])), "source": TEXT},
    )
    * 2,
    "gsm8k": ({"question": TEXT, "answer": TEXT},) * 2,
    "mmlu": ({"train": pa.struct(list(MMLU.items()))}, MMLU),
    "mmlu-all": (MMLU, MMLU),
    "arc-easy": (ARC, ARC),
    "arc-challenge": (ARC, ARC),
    "humaneval": (
        dict.fromkeys(("task_id", "prompt", "canonical_solution", "test", "entry_point"), TEXT),
    ),
}


@pytest.mark.parametrize("name", DATASETS)
def test_data_sets_are_public_and_have_the_real_columns(hub: HubServer, name: str) -> None:
    repo = hub.store.load("dataset", DATASETS[name].repo)
    assert repo and not repo.private
    for table, columns in zip(tables(hub, name), SCHEMAS[name], strict=True):
        assert {field.name: field.type for field in table.schema} == columns


def test_smoltalk_rows_are_conversations_some_with_a_system_message(hub: HubServer) -> None:
    systems = 0
    for row in rows(hub, "smol-smoltalk"):
        roles = [m["role"] for m in row["messages"]]
        systems += roles[0] == "system"
        roles = roles[roles[0] == "system" :]
        assert roles and roles == ["user", "assistant"] * (len(roles) // 2)
    assert systems > 20


def test_gsm8k_answers_calculate_right(hub: HubServer) -> None:
    for row in rows(hub, "gsm8k"):
        marks = [part.split(">>")[0].rsplit("=", 1) for part in row["answer"].split("<<")[1:]]
        assert marks
        assert all(eval(expression) == int(result) for expression, result in marks)
        assert row["answer"].rsplit("\n#### ", 1)[1] == marks[-1][1]


def test_multiple_choice_rows_have_one_right_answer_among_their_choices(hub: HubServer) -> None:
    for row in rows(hub, "mmlu"):
        assert len(set(row["choices"])) == 4
        assert 0 <= row["answer"] < 4
    arc = rows(hub, "arc-easy") + rows(hub, "arc-challenge")
    for row in arc:
        texts, labels = row["choices"]["text"], row["choices"]["label"]
        assert len(set(texts)) == len(texts) == len(labels)
        assert row["answerKey"] in labels
    assert {len(row["choices"]["label"]) for row in arc} == {3, 4, 5}
    assert {row["choices"]["label"][0] for row in arc} == {
        "A",
        "1",
    }  # numbered ones occur, as in the original


def test_a_second_rehearsal_needs_neither_torch_nor_pyarrow(
    hub: HubServer, cache: Path, tmp_path: Path
) -> None:
    script = """
import sys, time
from pathlib import Path
from nanolan.sim.hub.server import HubServer
from nanolan.sim.seed import seed
hub = HubServer(sys.argv[1])
begun = time.monotonic()
seed(hub, "me/lanbot-checkpoints", cache=Path(sys.argv[2]))
print(time.monotonic() - begun, "torch" in sys.modules, "pyarrow" in sys.modules)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "hub"), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True)
    seconds, torch, pyarrow = done.stdout.split()
    assert (torch, pyarrow) == ("False", "False")
    assert float(seconds) < 2  # measured: 0.01 s
    again = HubServer(tmp_path / "hub")
    assert again.files(REPO) == hub.files(REPO)


def test_two_at_once_share_one_whole_cache(tmp_path: Path) -> None:
    hubs = [HubServer(tmp_path / name) for name in "ab"]
    threads = [
        threading.Thread(target=seed, args=(hub, REPO, "d20", tmp_path / "cache")) for hub in hubs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert hubs[0].files(REPO) == hubs[1].files(REPO)


def test_the_tag_names_the_folders_and_nothing_is_kept_without_a_cache(tmp_path: Path) -> None:
    hub = HubServer(tmp_path / "hub")
    seed(hub, REPO, tag="d4")
    assert "mid_checkpoints/d4/manifest.json" in hub.files(REPO)
    assert not any("d20" in path for path in hub.files(REPO))
    assert {p.name for p in tmp_path.iterdir()} == {"hub"}
