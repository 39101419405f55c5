"""base -> mid. Kept: no SIGTERM handler, writes d{n_layer} whatever it read, the shard of rank 0 only, no val_bpb without eval.

torchrun --standalone --nproc_per_node=2 -m scripts.mid_train -- --device_batch_size=4
"""

import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from nanochat.checkpoint_manager import load_model, save_checkpoint
from nanochat.common import (
    PEAK_FLOPS,
    autodetect_device_type,
    compute_cleanup,
    compute_init,
    get_base_dir,
    peak_mib,
    print0,
)
from nanochat.dataloader import StreamLoader
from nanochat.loss_eval import evaluate_bpb
from nanochat.tokenizer import get_token_bytes
from tasks.common import TaskMixture
from tasks.customjson import CustomJSON
from tasks.gsm8k import GSM8K
from tasks.mmlu import MMLU
from tasks.smoltalk import SmolTalk

run = "dummy"
device_type = ""
model_tag = None
step = None
dtype = "bfloat16"
num_iterations = -1
max_seq_len = 128
device_batch_size = 4
unembedding_lr = 0.004
embedding_lr = 0.2
matrix_lr = 0.02
init_lr_frac = 1.0
weight_decay = 0.0
eval_every = 20
eval_tokens = 2048
total_batch_size = 2048
dry_run = 0
config_keys = [
    k for k, v in globals().items() if not k.startswith("_") and isinstance(v, int | float | str)
]
exec(Path("nanochat", "configurator.py").read_text())
user_config = {k: globals()[k] for k in config_keys}


def datasets():
    """(train, val)"""
    train = [SmolTalk("train"), MMLU("auxiliary_train", "train"), GSM8K("train")]
    train += [CustomJSON(), CustomJSON()]
    val = [SmolTalk("test"), MMLU("all", "test", stop=5200), GSM8K("test", stop=420)]
    return TaskMixture(train), TaskMixture(val)


def set_rates(optimizers, multiplier, at):
    """The learning rates, and Muon's momentum from 0.85 to 0.95 over 300 steps."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * multiplier
    warm = min(at / 300, 1)
    for group in optimizers[1].param_groups:
        group["momentum"] = (1 - warm) * 0.85 + warm * 0.95


def report(at, progress, loss, multiplier, seconds, minutes, flops):
    """The line of a step."""
    fields = [
        f"step {at:05d} ({100 * progress:.2f}%)",
        f"loss: {loss:.6f}",
        f"lrm: {multiplier:.2f}",
        f"dt: {1000 * seconds:.2f}ms",
        f"tok/sec: {int(total_batch_size / seconds):,}",
        f"mfu: {100 * flops * total_batch_size / seconds / PEAK_FLOPS:.2f}",
        f"total time: {minutes:.2f}m",
    ]
    print0(" | ".join(fields))


def is_last(loader, device):
    """Whether any rank is at its end."""
    last = torch.tensor(int(loader.last), device=device)
    if dist.is_initialized():
        dist.all_reduce(last, op=dist.ReduceOp.MAX)
    return bool(last)


def accumulated(model, batches, batch, count):
    """(loss, next batch) after the gradients of `count` micro-batches."""
    for _ in range(count):
        loss = model(*batch)
        (loss / count).backward()
        batch = next(batches)
    return loss, batch


def save(model, optimizers, meta):
    folder = get_base_dir() / "mid_checkpoints" / f"d{model.config.n_layer}"
    config = asdict(model.config) | {"sequence_len": max_seq_len}
    meta = meta | {"model_config": config, "user_config": user_config}
    states = [optimizer.state_dict() for optimizer in optimizers]
    save_checkpoint(folder, meta["step"], model.state_dict(), states, meta)


def train(model, tokenizer, optimizers, rank, ranks, device):
    """The loop, to the end of the data; (minutes, least bpb)."""
    sizes = (tokenizer, device_batch_size, max_seq_len, rank, ranks, device)
    train_data, val_data = datasets()
    token_bytes = get_token_bytes(device)
    count = total_batch_size // (device_batch_size * max_seq_len * ranks)
    loader = StreamLoader(train_data, *sizes, num_iterations)
    batches = iter(loader)
    batch = next(batches)
    at, minutes, least = 0, 0.0, float("inf")
    while True:
        last = is_last(loader, device)
        if eval_every > 0 and (last or at % eval_every == 0):
            steps = max(1, eval_tokens // (device_batch_size * max_seq_len * ranks))
            val_bpb = evaluate_bpb(model, StreamLoader(val_data, *sizes), steps, token_bytes)
            least = min(least, val_bpb)
            print0(f"Step {at:05d} | Validation bpb: {val_bpb:.4f}")
        if last:
            if rank == 0 and not dry_run:
                save(model, optimizers, {"step": at, "val_bpb": val_bpb})
            return minutes, least
        begun = time.time()
        loss, batch = accumulated(model, batches, batch, count)
        progress = loader.progress
        multiplier = 1.0 if progress < 0.8 else (1 - progress) / 0.2
        set_rates(optimizers, multiplier, at)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        at += 1
        seconds = time.time() - begun
        minutes += seconds / 60 if at > 10 else 0  # the first ones are no measure
        flops = model.estimate_flops()
        report(at, progress, loss.item(), multiplier, seconds, minutes, flops)


def main():
    _, rank, _, ranks, device = compute_init(device_type or autodetect_device_type())
    model, tokenizer, _ = load_model("base", device, "train", model_tag, step)
    tokens = device_batch_size * max_seq_len * ranks
    assert total_batch_size % tokens == 0, "the total batch size is no multiple of a pass"
    print0(f"Tokens per pass over all ranks: {tokens:,}")
    optimizers = model.setup_optimizers(unembedding_lr, embedding_lr, matrix_lr, weight_decay)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"] * init_lr_frac
    minutes, least = train(model, tokenizer, optimizers, rank, ranks, device)
    print0(f"Peak memory usage: {peak_mib():.2f}MiB")
    print0(f"Total training time: {minutes:.2f}m")
    print0(f"Minimum validation bpb: {least:.4f}")
    compute_cleanup()


main()
