"""Small nanochat checkouts, as git repositories in tmp: only what the laptop reads of them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from tests.support.core_fixtures import git

Files = Mapping[str, str | bytes]
TOKEN = "ghp_" + "Zk7pQ2" * 6  # made up
SFT_2026 = textwrap.dedent("""
    import argparse
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=str, default="dummy")
    parser.add_argument("--device-batch-size", type=int, default=32)
    parser.add_argument("--max-seq-len", type=int, default=2048)
    parser.add_argument("--total-batch-size", type=int, default=524288)
    parser.add_argument("--init-lr-frac", type=float, default=0.8)
    parser.add_argument("--load-optimizer", type=int, default=1)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    out = "chatsft_checkpoints"
""")
RL_2026 = textwrap.dedent("""
    import argparse
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=str, default="dummy")
    parser.add_argument("--device-batch-size", type=int, default=8)
    parser.add_argument("--examples-per-step", type=int, default=16)
    parser.add_argument("--num-samples", type=int, default=16)
""")
EVAL_2026 = textwrap.dedent("""
    import argparse
    parser = argparse.ArgumentParser()
    parser.add_argument("-a", "--task-name", type=str, default=None)
    parser.add_argument("-x", "--max-problems", type=int, default=None)
    parser.add_argument("--device-type", type=str, default="")
""")
CONFIGURED = textwrap.dedent("""
    import os
    run = "dummy"
    device_batch_size = {rows}
    {more}
    config_keys = [k for k, v in globals().items() if not k.startswith("_")]
    exec(open(os.path.join("nanochat", "configurator.py")).read())
""")
HOOKS: dict[str, str | bytes] = {
    "nanochat/checkpoint_manager.py": "def load_model(source): ...\n",
    "nanochat/common.py": 'import os\nBASE = os.environ.get("NANOCHAT_BASE_DIR")\n',
}
FILES_2026: dict[str, str | bytes] = {
    "pyproject.toml": '[project]\nname = "nanochat"\nversion = "0.1.0"\n',
    "uv.lock": "version = 1\n",
    ".gitignore": "*.log\nwandb/\n",
    **HOOKS,
    "nanochat/__init__.py": "",
    "scripts/chat_sft.py": SFT_2026,
    "scripts/chat_rl.py": RL_2026,
    "scripts/chat_eval.py": EVAL_2026,
    "tasks/common.py": 'FOLDER = "task_data"\n',
}
FILES_2025: dict[str, str | bytes] = {
    "pyproject.toml": '[project]\nname = "nanochat"\nversion = "0.1.0"\n',
    **HOOKS,
    "nanochat/configurator.py": "",
    "scripts/mid_train.py": CONFIGURED.format(
        rows=32, more="max_seq_len = 2048\ntotal_batch_size = 524288\ninit_lr_frac = 1.0"
    ),
    "scripts/chat_sft.py": CONFIGURED.format(
        rows=4, more="target_examples_per_step = 32\ninit_lr_frac = 0.02\nsource = 'mid'"
    ),
    "scripts/chat_rl.py": CONFIGURED.format(
        rows=8, more="examples_per_step = 16\nnum_samples = 16"
    ),
    "tasks/common.py": "from datasets import load_dataset\n",
}


def write(root: Path, files: Files) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def start(root: Path, files: Files = FILES_2026) -> Path:
    """A repository of one commit with these files."""
    root.mkdir(parents=True)
    git(root, "init", "--quiet", "--initial-branch=main")
    write(root, files)
    return commit(root)


def commit(root: Path) -> Path:
    git(root, "add", "--all", "--force")
    git(root, "commit", "--quiet", "--message=x")
    return root


def head(root: Path) -> str:
    return git(root, "rev-parse", "HEAD")


def add_submodule(root: Path, url: str, path: str) -> None:
    git(root, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "--", url, path)


def toml(phases: str, evaluation: str = "") -> str:
    """A pyproject.toml with these tables below [tool.nanolan.phases]."""
    return f'[project]\nname = "x"\n[tool.nanolan]\n{evaluation}\n{phases}\n'


def phase(name: str, rest: str) -> str:
    return (
        f'[tool.nanolan.phases.{name}]\ninput = "a_checkpoints"\noutput = "b_checkpoints"\n{rest}\n'
    )
