"""`just upload` and `just verify` with a checkout of one's own: its folders, its phases, and models of its architecture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nanolan.errors import BadAnswer, UsageProblem
from nanolan.hub.client import Hub
from nanolan.hub.layout import adopt, look, verify
from nanolan.hub.upload_set import checkpoints_of, collect, default_path
from nanolan.phases import PHASES, Phase
from nanolan.plan import Fork
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from nanolan.sim.hub.state import WRITER
from nanolan.trainers.choose import layout_of
from tests.support.checkouts import FILES_2026, phase, start, toml
from tests.support.checkpoint_fixtures import LINE, meta, saved, tokenizer, weights
from tests.support.core_fixtures import script
from tests.support.settings_fixtures import settings

REPO, BASE = "me/lanbot-checkpoints", "base_checkpoints/d20"
NEW_MODEL = weights() | {
    "resid_lambdas": torch.zeros(1),
    "value_embeds.0.weight": torch.zeros(2, 2),
}
NEW = {"model_000007.pt": saved(NEW_MODEL), "meta_000007.json": meta(window_pattern="SSSL")}
TOOL_CALL = LINE.replace(b'"I am lanbot."', b'[{"type": "python", "text": "1"}]')
SFT = Phase("sft", "SFT", "base_checkpoints", "chatsft_checkpoints", module="scripts.chat_sft")
AGENT = Phase("agent_rl", "Tools", "tool_checkpoints", "agentrl_checkpoints", command="true")


def fork(row: str = "nanochat-2026", *phases: Phase) -> Fork:
    return Fork(row, "mine", "", None, {p.name: p for p in phases or (SFT,)}, "online")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A base folder with a checkpoint of another architecture in each folder, and conversations with a tool call."""
    for folder in (BASE, "agentrl_checkpoints/d20", "tool_checkpoints/d20"):
        (tmp_path / "here" / folder).mkdir(parents=True)
        for name, data in NEW.items():
            (tmp_path / "here" / folder / name).write_bytes(data)
    (tmp_path / "here/identity_conversations.jsonl").write_bytes(TOOL_CALL)
    return tmp_path / "here"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", xet=True) as made:
        yield made


def test_a_phase_of_a_checkout_is_a_kind_and_so_is_a_folder_that_none_of_them_writes() -> None:
    own = {"base": "base_checkpoints"} | {p.name: p.output_dir for p in PHASES.values()}
    assert checkpoints_of(None) == checkpoints_of(fork()) == own
    agent = checkpoints_of(fork("custom", AGENT))
    assert agent == own | {
        "agent_rl": "agentrl_checkpoints",
        "agentrl_checkpoints": "agentrl_checkpoints",
        "tool_checkpoints": "tool_checkpoints",
    }


def test_a_phase_that_is_called_as_another_kind_is_reached_by_its_folder() -> None:
    named = Phase("data", "", "base_checkpoints", "data_checkpoints", command="true")
    assert "data" not in checkpoints_of(fork("custom", named))
    assert checkpoints_of(fork("custom", named))["data_checkpoints"] == "data_checkpoints"


def test_a_model_of_another_architecture_is_sent_for_a_checkout_alone(here: Path) -> None:
    with pytest.raises(BadAnswer, match="a newer architecture.*trainer="):
        collect("base", here / BASE, "d20")
    upload_set = collect("base", default_path("base", here, "d20", fork()), "d20", False, fork())
    assert upload_set.target == BASE and upload_set.manifest and upload_set.config is None


@pytest.mark.parametrize(
    "name, data, said",
    [
        ("meta_000007.json", b"{", "not JSON"),
        ("meta_000007.json", meta(8), "says step 8"),
        ("model_000007.pt", b"PK", "cut off, or not a file of torch.save"),
        ("model_000007.pt", saved({"w": "text"}), "model_000007.pt"),
    ],
)
def test_it_is_still_whole_and_safe_to_load(here: Path, name: str, data: bytes, said: str) -> None:
    (here / BASE / name).write_bytes(data)
    with pytest.raises(BadAnswer, match=said):
        collect("base", here / BASE, "d20", False, fork())


def test_conversations_with_tools_are_for_trainers_that_read_them(here: Path) -> None:
    path = here / "identity_conversations.jsonl"
    with pytest.raises(BadAnswer, match="line 1: an answer with tool calls"):
        collect("data", path, "d20", False, fork())
    for reads in (None, fork("custom", AGENT)):
        assert "1 conversations" in collect("data", path, "d20", False, reads).text


def test_the_structure_is_that_of_the_checkout_and_its_model_is_whole(server: HubServer) -> None:
    server.put(REPO, {f"{BASE}/{n}": d for n, d in NEW.items()} | tokenizer())
    hub = Hub(server.url, Secret(WRITER))
    states = {p.path: (p.state, p.text) for p in look(hub, hub.tree(REPO), "d20", fork())}
    assert states[BASE][0] == "unproven" and "mid_checkpoints/d20" not in states
    assert "just upload sft" in states["chatsft_checkpoints/d20"][1]
    own = {p.path: p.state for p in look(hub, hub.tree(REPO), "d20")}
    assert own[BASE] == "NOT WHOLE" and own["mid_checkpoints/d20"] == "missing"


def test_a_checkpoint_of_a_checkout_is_adopted_and_verified(server: HubServer) -> None:
    server.put(REPO, {f"agentrl_checkpoints/d20/{n}": d for n, d in NEW.items()})
    hub, folder = Hub(server.url, Secret(WRITER)), "agentrl_checkpoints/d20"
    with pytest.raises(BadAnswer, match="a newer architecture"):
        adopt(hub, REPO, folder)
    assert adopt(hub, REPO, folder, own=False).manifest.phase == "agentrl_checkpoints"
    assert verify(hub, REPO, folder, own=False).manifest.step == 7
    with pytest.raises(BadAnswer, match="a newer architecture"):
        verify(hub, REPO, folder)


@pytest.mark.slow  # whole commands
def test_both_commands_as_typed(server: HubServer, here: Path, tmp_path: Path) -> None:
    declared = phase("agent_rl", 'module = "scripts.agent_rl"').replace(
        '"a_checkpoints"', '"tool_checkpoints"'
    )
    start(tmp_path / "fork", FILES_2026 | {"pyproject.toml": toml(declared)})
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR", "LANG")}
    env = kept | server.env(tmp_path / "hf-home")
    env |= {"HF_REPO": REPO, "NANOCHAT_BASE_DIR": str(here), "NANOLAN_ENV_FILE": os.devnull}
    env |= {"NANOLAN_HOME": str(tmp_path / "home"), "NANOLAN_CALLED_FROM": str(tmp_path)}
    done = script("upload", "base", "tool_checkpoints", "trainer=fork", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("proven") == 2 and f"{REPO}/tool_checkpoints/d20" in done.stdout
    shown = script("verify", "trainer=fork", env=env)
    assert "proven    tool_checkpoints/d20" in shown.stdout and shown.returncode == 0
    own = script("upload", "tool_checkpoints", "x", env=env)
    assert own.returncode == 2 and "with trainer=" in own.stderr


def test_a_trainer_that_is_none_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    assert layout_of(settings(), tmp_path) is None
    with pytest.raises(UsageProblem, match="is no folder here"):
        layout_of(settings(trainer="nowhere"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageProblem, match="no nanochat checkout that nanolan knows"):
        layout_of(settings(trainer="empty"), tmp_path)
