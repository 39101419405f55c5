"""sft -> rl on GSM8K. Kept: no SIGTERM handler, samples % batch is asserted after the first rollouts, no optimizer saved.

torchrun --standalone --nproc_per_node=2 -m scripts.chat_rl -- --examples-per-step=16
"""

import argparse
from dataclasses import asdict

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
from nanochat.engine import generate
from tasks.gsm8k import GSM8K

parser = argparse.ArgumentParser()
parser.add_argument("--run", type=str, default="dummy")
parser.add_argument("--device-type", type=str, default="")
parser.add_argument("--model-tag", type=str, default=None)
parser.add_argument("--model-step", type=int, default=None)
parser.add_argument("--num-epochs", type=int, default=1)
parser.add_argument("--device-batch-size", type=int, default=4)
parser.add_argument("--examples-per-step", type=int, default=16)
parser.add_argument("--num-samples", type=int, default=4)
parser.add_argument("--max-new-tokens", type=int, default=16)
parser.add_argument("--temperature", type=float, default=1.0)
parser.add_argument("--top-k", type=int, default=50)
parser.add_argument("--embedding-lr", type=float, default=0.2)
parser.add_argument("--unembedding-lr", type=float, default=0.004)
parser.add_argument("--matrix-lr", type=float, default=0.02)
parser.add_argument("--weight-decay", type=float, default=0.0)
parser.add_argument("--init-lr-frac", type=float, default=0.05)
parser.add_argument("--eval-every", type=int, default=10)
parser.add_argument("--eval-examples", type=int, default=8)
parser.add_argument("--save-every", type=int, default=10)
args = parser.parse_args()


def rollouts(model, tokenizer, prompt, seed):
    """`num_samples` completions of a prompt, in calls of up to `device_batch_size`."""
    found = []
    while len(found) < args.num_samples:
        rows = min(args.device_batch_size, args.num_samples - len(found))
        settings = (rows, args.max_new_tokens, args.temperature, args.top_k, seed + len(found))
        found += generate(model, tokenizer, prompt, *settings)
    return found


def padded(prompt, samples, pad, device):
    """(inputs, targets) of a prompt with its completions; only these are trained."""
    longest = len(prompt) + max(1, *map(len, samples))
    inputs = torch.full((len(samples), longest), pad)
    targets = torch.full((len(samples), longest), -1)
    for i, sample in enumerate(samples):
        inputs[i, : len(prompt) + len(sample)] = torch.tensor(prompt + sample)
        targets[i, len(prompt) : len(prompt) + len(sample)] = torch.tensor(sample)
    return inputs[:, :-1].to(device), targets[:, 1:].to(device)


def learn(model, tokenizer, prompt, samples, rewards, share):
    """Backward over one question's samples; yields (pass, loss, reward)."""
    device, pad = model.get_device(), tokenizer.encode_special("<|assistant_end|>")
    rewards = torch.tensor(rewards, dtype=torch.float, device=device)
    advantages = rewards - rewards.mean()
    assert args.num_samples % args.device_batch_size == 0, (
        "the samples are no multiple of the batch"
    )
    passes = args.num_samples // args.device_batch_size
    inputs, targets = padded(prompt, samples, pad, device)
    for i in range(passes):
        rows = slice(i * args.device_batch_size, (i + 1) * args.device_batch_size)
        nats = model(inputs[rows], targets[rows], loss_reduction="none")
        weight = advantages[rows].repeat_interleave(inputs.size(1))
        valid = (targets[rows] >= 0).sum().clamp(min=1)
        loss = (nats * weight).sum() / (valid * passes * share)
        loss.backward()
        yield i, loss.item(), rewards[rows].mean().item()


def evaluate(model, tokenizer, task, rank, ranks):
    """Pass@1 .. Pass@k of the first test questions."""
    passed = [0.0] * args.device_batch_size
    mine = range(rank, min(args.eval_examples, len(task)), ranks)
    for i in mine:
        prompt = tokenizer.render_for_completion(task[i])
        samples = generate(
            model, tokenizer, prompt, args.device_batch_size, args.max_new_tokens, 1.0, args.top_k
        )
        right = [task.evaluate(task[i], tokenizer.decode(ids)) for ids in samples]
        for k in range(args.device_batch_size):
            passed[k] += any(right[: k + 1])
    *passed, count = sum_over_ranks([*passed, len(mine)], model.get_device())
    return [p / max(count, 1) for p in passed]


def train_step(model, tokenizer, task, at, steps, rank, ranks):
    """Rollouts and gradients of this rank's questions; (mean reward, mean length) over all ranks."""
    share = args.examples_per_step // ranks
    rewards, lengths = [], []
    for n in range(share):
        index = (at * args.examples_per_step + n * ranks + rank) % len(task)
        prompt = tokenizer.render_for_completion(task[index])
        samples = rollouts(model, tokenizer, prompt, seed=1000 * at + index)
        scores = [task.evaluate(task[index], tokenizer.decode(ids)) for ids in samples]
        for i, loss, reward in learn(model, tokenizer, prompt, samples, scores, share):
            line = f"Example step {n} | Pass {i} | loss: {loss:.6f} | Average reward: {reward}"
            print0(f"Step {at}/{steps} | {line}")
        rewards += scores
        lengths += [len(prompt) + len(ids) for ids in samples]
    sums = sum_over_ranks([sum(rewards), sum(lengths), len(rewards)], model.get_device())
    return sums[0] / sums[2], sums[1] / sums[2]


def save(model, at):
    folder = get_base_dir() / "chatrl_checkpoints" / (args.model_tag or f"d{model.config.n_layer}")
    save_checkpoint(folder, at, model.state_dict(), None, {"model_config": asdict(model.config)})
    print(f"Saved model checkpoint to {folder}")


def train(model, tokenizer, optimizer, rank, ranks):
    """The loop over the questions."""
    task, test = GSM8K("train"), GSM8K("test")
    steps = len(task) // args.examples_per_step * args.num_epochs
    print0(f"Calculated number of steps: {steps}")
    for at in range(steps):
        if at % args.eval_every == 0:
            passed = evaluate(model, tokenizer, test, rank, ranks)
            line = ", ".join(f"Pass@{k}: {p:.4f}" for k, p in enumerate(passed, 1))
            print0(f"Step {at} | {line}")
        reward, length = train_step(model, tokenizer, task, at, steps, rank, ranks)
        values = f"Average reward: {reward} | Average sequence length: {length:.2f}"
        print0(f"Step {at}/{steps} | {values}")
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1 - at / steps)
        optimizer.step()
        model.zero_grad(set_to_none=True)
        if rank == 0 and ((at > 0 and at % args.save_every == 0) or at == steps - 1):
            save(model, at)


def main():
    device_type = args.device_type or autodetect_device_type()
    _, rank, _, ranks, device = compute_init(device_type)
    model, tokenizer, _ = load_model("sft", device, "eval", args.model_tag, args.model_step)
    optimizer = model.setup_optimizer(
        args.unembedding_lr, args.embedding_lr, args.matrix_lr, args.weight_decay
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"] * args.init_lr_frac
    assert args.examples_per_step % ranks == 0, "the examples per step do not divide by the ranks"
    train(model, tokenizer, optimizer, rank, ranks)
    if dist.is_initialized():
        dist.barrier()
    compute_cleanup()


if __name__ == "__main__":
    main()
