"""mid -> sft. Kept: no SIGTERM handler, no time or speed in its lines, saves step num_iterations - 1 into d{n_layer}.

torchrun --standalone --nproc_per_node=2 -m scripts.chat_sft -- --target_examples_per_step=16
"""

from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from nanochat.checkpoint_manager import load_model, save_checkpoint
from nanochat.common import (
    autodetect_device_type,
    compute_cleanup,
    compute_init,
    get_base_dir,
    print0,
    sum_over_ranks,
)
from scripts.chat_eval import parser as eval_parser
from scripts.chat_eval import run_chat_eval
from tasks.arc import ARC
from tasks.common import TaskMixture
from tasks.customjson import CustomJSON
from tasks.gsm8k import GSM8K
from tasks.smoltalk import SmolTalk

run = "dummy"
source = "mid"
model_tag = None
step = None
device_type = ""
dtype = "bfloat16"
device_batch_size = 4
num_epochs = 1
num_iterations = -1
target_examples_per_step = 32
unembedding_lr = 0.004
embedding_lr = 0.2
matrix_lr = 0.02
weight_decay = 0.0
init_lr_frac = 0.02
eval_every = 20
eval_steps = 4
eval_metrics_every = 20
eval_metrics_max_problems = 16
config_keys = [
    k for k, v in globals().items() if not k.startswith("_") and isinstance(v, int | float | str)
]
exec(Path("nanochat", "configurator.py").read_text())
user_config = {k: globals()[k] for k in config_keys}


def datasets():
    """(train, val)"""
    train = [ARC("ARC-Easy", "train"), ARC("ARC-Challenge", "train"), GSM8K("train")]
    train += [SmolTalk("train", stop=5_000), CustomJSON()]
    return TaskMixture(train), SmolTalk("test")


def batches(data, tokenizer, rank, ranks, device):
    """Endless batches of `device_batch_size` conversations, padded to the longest."""
    rows, mine = [], list(range(rank, len(data), ranks))
    while True:
        for i in mine:
            rows.append(tokenizer.render_conversation(data[i]))
            if len(rows) == device_batch_size:
                yield padded(rows, tokenizer.encode_special("<|assistant_end|>"), device)
                rows = []


def padded(rows, pad, device):
    """(inputs, targets); -1 where nothing is trained."""
    longest = max(len(ids) for ids, _ in rows) - 1
    inputs = torch.full((len(rows), longest), pad)
    targets = torch.full((len(rows), longest), -1)
    for i, (ids, mask) in enumerate(rows):
        known, trained = torch.tensor(ids), torch.tensor(mask[1:]) == 1
        inputs[i, : len(ids) - 1] = known[:-1]
        targets[i, : len(ids) - 1] = torch.where(trained, known[1:], -1)
    return inputs.to(device), targets.to(device)


@torch.no_grad()
def validate(model, val):
    """The mean loss of a few batches, over all ranks."""
    model.eval()
    losses = [model(*next(val)).item() for _ in range(eval_steps)]
    model.train()
    total, count = sum_over_ranks([sum(losses), len(losses)], model.get_device())
    return total / count


def metrics(model, tokenizer):
    """Accuracies of the multiple choice tasks."""
    model.eval()
    most, batch = str(eval_metrics_max_problems), str(2 * device_batch_size)
    given = eval_parser().parse_args(["-i", "sft", "-x", most, "-b", batch])
    names = {"mmlu_acc": "MMLU", "arc_easy_acc": "ARC-Easy"}
    found = {key: run_chat_eval(name, model, tokenizer, given) for key, name in names.items()}
    model.train()
    return found


def optimizer_step(model, optimizers, train, count, multiplier):
    """(loss, trained tokens) of one step."""
    tokens = 0
    for _ in range(count):
        inputs, targets = next(train)
        loss = model(inputs, targets)
        (loss / count).backward()
        tokens += int((targets >= 0).sum())
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * multiplier
        optimizer.step()
    model.zero_grad(set_to_none=True)
    loss, tokens = sum_over_ranks([loss.item(), tokens], model.get_device())
    return loss / (dist.get_world_size() if dist.is_initialized() else 1), int(tokens)


def save(model, meta):
    folder = get_base_dir() / "chatsft_checkpoints" / f"d{model.config.n_layer}"
    meta = meta | {"model_config": asdict(model.config)}
    save_checkpoint(folder, meta["step"], model.state_dict(), None, meta)
    print(f"Saved model checkpoint to {folder}")


def train(model, tokenizer, optimizers, rank, ranks, device):
    """The loop; its last round evaluates and saves."""
    train_data, val_data = datasets()
    epochs = len(train_data) // target_examples_per_step * num_epochs
    rounds = num_iterations if num_iterations > 0 else epochs
    training = batches(train_data, tokenizer, rank, ranks, device)
    count = target_examples_per_step // (device_batch_size * ranks)
    meta = {}
    for at in range(rounds):
        last = at == rounds - 1
        if last or at % eval_every == 0:
            val_loss = validate(model, batches(val_data, tokenizer, rank, ranks, device))
            print0(f"Step {at:05d} | Validation loss: {val_loss:.6f}")
        if last or (at > 0 and at % eval_metrics_every == 0):
            meta = metrics(model, tokenizer)
            print0(f"Step {at:05d} | " + ", ".join(f"{k}: {v:.6f}" for k, v in meta.items()))
        if last:
            break
        multiplier = 1.0 - at / rounds
        loss, tokens = optimizer_step(model, optimizers, training, count, multiplier)
        line = f"Training loss: {loss:.6f}| lrm: {multiplier:.6f}| num_tokens: {tokens:,}"
        print0(f"Step {at:05d}/{rounds:05d} | {line}")
    if rank == 0:
        save(model, {"step": at, "val_loss": val_loss, **meta})


def main():
    _, rank, _, ranks, device = compute_init(device_type or autodetect_device_type())
    model, tokenizer, _ = load_model(source, device, "train", model_tag, step)
    per_pass = device_batch_size * ranks
    print0(f"Target examples per step: {target_examples_per_step}")
    print0(f"Examples per pass over all ranks: {per_pass}")
    assert target_examples_per_step % per_pass == 0, "the examples are no multiple of a pass"
    optimizers = model.setup_optimizers(unembedding_lr, embedding_lr, matrix_lr, weight_decay)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"] * init_lr_frac
    train(model, tokenizer, optimizers, rank, ranks, device)
    compute_cleanup()


main()
