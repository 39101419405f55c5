"""Checkpoints on disk. Kept: without a tag the largest dN and without a step the newest one are taken."""

import json
import logging
import re
from dataclasses import asdict
from pathlib import Path

import torch

from nanochat.common import get_base_dir
from nanochat.gpt import GPT, GPTConfig
from nanochat.tokenizer import get_tokenizer

logger = logging.getLogger(__name__)
FOLDERS = {
    "base": "base_checkpoints",
    "mid": "mid_checkpoints",
    "sft": "chatsft_checkpoints",
    "rl": "chatrl_checkpoints",
}


def save_checkpoint(checkpoint_dir, step, model_data, optimizer_data, meta_data, rank=0):
    """Rank 0 writes the model and its meta; every rank that has optimizer data writes its shard."""
    folder = Path(checkpoint_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        torch.save(model_data, folder / f"model_{step:06d}.pt")
        logger.info(f"Model parameters written to {folder / f'model_{step:06d}.pt'}")
        (folder / f"meta_{step:06d}.json").write_text(json.dumps(meta_data, indent=2))
    if optimizer_data is not None:
        torch.save(optimizer_data, folder / f"optim_{step:06d}_rank{rank}.pt")


def load_checkpoint(checkpoint_dir, step, device):
    """(state dict, meta) of one step."""
    folder = Path(checkpoint_dir)
    state = torch.load(folder / f"model_{step:06d}.pt", map_location=device, weights_only=True)
    return state, json.loads((folder / f"meta_{step:06d}.json").read_text())


def build_model(checkpoint_dir, step, device, phase):
    """(model, tokenizer, meta); on the CPU bf16 weights become fp32."""
    state, meta = load_checkpoint(checkpoint_dir, step, device)
    state = {key.removeprefix("_orig_mod."): value for key, value in state.items()}
    if torch.device(device).type == "cpu":
        state = {key: value.float() for key, value in state.items()}
    config = GPTConfig(**meta["model_config"])
    logger.info(f"Building a model with {asdict(config)}")
    with torch.device(device):
        model = GPT(config)
    model.load_state_dict(state, strict=True, assign=True)
    model.train(phase == "train")
    tokenizer = get_tokenizer()
    assert tokenizer.get_vocab_size() == config.vocab_size
    return model, tokenizer, meta


def find_largest_model(folder):
    """The name d<number> with the largest number, else the folder that changed last."""
    folders = [p for p in Path(folder).iterdir() if p.is_dir()]
    if not folders:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    sized = [(int(m[1]), p.name) for p in folders if (m := re.match(r"d(\d+)", p.name))]
    return max(sized)[1] if sized else max(folders, key=lambda p: p.stat().st_mtime).name


def find_last_step(folder):
    """The step of the model file whose name is the last one."""
    names = [p.stem for p in Path(folder).glob("model_*.pt")]
    if not names:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    return int(max(names).removeprefix("model_"))


def find_checkpoint(source, model_tag=None, step=None):
    """(folder, step) of what to load."""
    folder = get_base_dir() / FOLDERS[source]
    if model_tag is None:
        model_tag = find_largest_model(folder)
        logger.info(f"No model tag given, taking {model_tag}")
    return folder / model_tag, find_last_step(folder / model_tag) if step is None else step


def load_model(source, device, phase, model_tag=None, step=None):
    """(model, tokenizer, meta) of the phase `source`, for `phase` "train" or "eval"."""
    folder, step = find_checkpoint(source, model_tag, step)
    logger.info(f"Loading the model of step {step} from {folder}")
    return build_model(folder, step, device, phase)
