"""Shared by tests/launch/test_preflight*.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.checkpoint.manifest import Manifest, hash_bytes
from nanolan.hub.client import Hub
from nanolan.launch.preflight import (
    Findings,
    check_hub,
)
from nanolan.phases import DATASETS
from nanolan.redact import Secret
from nanolan.settings.load import load_settings
from nanolan.settings.settings import Settings
from nanolan.shadeform.offers import Offer
from nanolan.sim.hub.server import HubServer
from nanolan.sim.marker import MARKER
from tests.checkpoint.test_parquet import SCHEMAS, written
from tests.support.box_fixtures import TOKEN
from tests.support.checkpoint_fixtures import LINE, meta, saved, tokenizer, weights

READER, REPO, RUNS, MID, BASE = (
    f"hf_readonly_{MARKER}",
    "me/lanbot",
    "me/runs",
    "mid_checkpoints/d20",
    "base_checkpoints/d20",
)


USERS = {
    TOKEN: {"name": "me", "orgs": [], "role": "write"},
    READER: {"name": "me", "orgs": [], "role": "read"},
}


META, MODEL = meta(), saved(weights())


FILES = {"model_000007.pt": MODEL, "meta_000007.json": META, "optim_000007.pt": b"optimizer"}


PROVEN = Manifest(
    "ab12cd34", "mid", 7, tuple(hash_bytes(name, data) for name, data in sorted(FILES.items()))
)


TOKENIZER = tokenizer()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    """A Hub with everything that phase sft needs; the base checkpoint has no manifest."""
    with HubServer(tmp_path / "hub", tokens=USERS) as hub:  # type: ignore[arg-type]
        hub.put(
            REPO,
            {
                **{f"{MID}/{name}": data for name, data in FILES.items()},
                f"{MID}/manifest.json": PROVEN.to_json().encode(),
                **{f"{BASE}/{name}": data for name, data in FILES.items()},
                **TOKENIZER,
                "identity_conversations.jsonl": LINE,
            },
        )
        for name, data in DATASETS.items():
            hub.put(
                data.repo,
                {
                    path.replace("*", "0"): written(SCHEMAS[name])
                    for path in (data.train, data.test)
                    if path
                },
                typ="dataset",
                private=False,
            )
        yield hub


def settings(**flags: str) -> Settings:
    return load_settings({"hf_repo": REPO, "phase": "sft", "eval": "none"} | flags, {})


def look(server: HubServer, token: str = TOKEN, **flags: str) -> Findings:
    return check_hub(Hub(server.url, Secret(token), patience_s=1), settings(**flags))


def failed(found: Findings) -> dict[str, str]:
    return {c.name: c.text for c in found.failed}


def text_of(found: Findings, name: str) -> str:
    return next((c.text for c in found.checks if c.name == name), "")


H100 = Offer("c", "r", "t", "H100", 8, 80, 2400, ())
