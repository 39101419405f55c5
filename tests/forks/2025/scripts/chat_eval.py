"""Tasks, answered and counted. Kept: progress overwrites its line by carriage returns; the result line is the only whole one.

python -m scripts.chat_eval -i sft -a "ARC-Easy|GSM8K"
"""

import argparse

import torch
from nanochat.checkpoint_manager import load_model
from nanochat.common import (
    autodetect_device_type,
    compute_cleanup,
    compute_init,
    get_dist_info,
    print0,
    sum_over_ranks,
)
from nanochat.engine import generate
from tasks.arc import ARC
from tasks.gsm8k import GSM8K
from tasks.mmlu import MMLU

TASKS = {
    "ARC-Easy": (lambda: ARC("ARC-Easy", "test"), 0.25),
    "ARC-Challenge": (lambda: ARC("ARC-Challenge", "test"), 0.25),
    "MMLU": (lambda: MMLU("all", "test"), 0.25),
    "GSM8K": (lambda: GSM8K("test"), 0.0),
}  # and the accuracy of a guess
CATEGORICAL = ("ARC-Easy", "ARC-Challenge", "MMLU")


def show(done, right, total):
    """A progress line on top of the last one."""
    print(
        f"\r\033[KRank {get_dist_info()[1]} | {right}/{done} ({done}/{total})", end="", flush=True
    )


@torch.no_grad()
def letters_right(model, tokenizer, conversations):
    """How many of a batch get the highest logit at the right letter."""
    prompts = [tokenizer.render_for_completion(c) for c in conversations]
    longest = max(map(len, prompts))
    padded = [p + [tokenizer.get_bos_token_id()] * (longest - len(p)) for p in prompts]
    logits = model(torch.tensor(padded, device=model.get_device()))
    right = 0
    for row, prompt, conversation in zip(logits, prompts, conversations, strict=True):
        letters = conversation["letters"]
        scores = row[len(prompt) - 1][[tokenizer.encode(letter)[0] for letter in letters]]
        right += letters[int(scores.argmax())] == conversation["messages"][-1]["content"]
    return right


def run_categorical(task, tokenizer, model, batch_size, max_problems=None):
    """(right, problems) of this rank's share."""
    _, rank, _, ranks = get_dist_info()
    mine = list(range(rank, min(len(task), max_problems or len(task)), ranks))
    right = 0
    for at in range(0, len(mine), batch_size):
        batch = mine[at : at + batch_size]
        right += letters_right(model, tokenizer, [task[i] for i in batch])
        show(at + len(batch), right, len(mine))
    return right, len(mine)


def run_generative(task, tokenizer, model, args, max_problems=None):
    """(right, problems) of this rank's share, one problem at a time."""
    _, rank, _, ranks = get_dist_info()
    mine = list(range(rank, min(len(task), max_problems or len(task)), ranks))
    right = 0
    for done, i in enumerate(mine, 1):
        prompt = tokenizer.render_for_completion(task[i])
        samples = generate(
            model, tokenizer, prompt, args.num_samples, args.max_new_tokens, args.temperature
        )
        right += any(task.evaluate(task[i], tokenizer.decode(ids)) for ids in samples)
        show(done, right, len(mine))
    return right, len(mine)


def run_chat_eval(name, model, tokenizer, args):
    """The accuracy of one task, over all ranks."""
    task = TASKS[name][0]()
    if task.eval_type == "categorical":
        counts = run_categorical(task, tokenizer, model, args.batch_size, args.max_problems)
    else:
        counts = run_generative(task, tokenizer, model, args, args.max_problems)
    print()
    right, total = sum_over_ranks(counts, model.get_device())
    print0("=" * 40)
    print0(f"Final: {int(right)}/{int(total)} ({100 * right / max(total, 1):.2f}%)")
    return right / max(total, 1)


def chatcore(accuracies):
    """The mean of (accuracy - guess)/(1 - guess)."""
    above = [(accuracies[n] - TASKS[n][1]) / (1 - TASKS[n][1]) for n in accuracies]
    return sum(above) / len(above)


def parser():
    p = argparse.ArgumentParser()
    p.add_argument("-i", "--source", type=str, required=True)
    p.add_argument("-a", "--task-name", type=str, default=None)
    p.add_argument("-t", "--temperature", type=float, default=0.0)
    p.add_argument("-m", "--max-new-tokens", type=int, default=16)
    p.add_argument("-n", "--num-samples", type=int, default=1)
    p.add_argument("-k", "--top-k", type=int, default=50)
    p.add_argument("-b", "--batch-size", type=int, default=8)
    p.add_argument("-g", "--model-tag", type=str, default=None)
    p.add_argument("-s", "--step", type=int, default=None)
    p.add_argument("-x", "--max-problems", type=int, default=None)
    p.add_argument("--device-type", type=str, default="")
    return p


def main():
    args = parser().parse_args()
    _, _, _, _, device = compute_init(args.device_type or autodetect_device_type())
    model, tokenizer, _ = load_model(args.source, device, "eval", args.model_tag, args.step)
    names = list(TASKS) if args.task_name is None else args.task_name.split("|")
    accuracies = {}
    for name in names:
        accuracies[name] = run_chat_eval(name, model, tokenizer, args)
        print0(f"{name} accuracy: {100 * accuracies[name]:.2f}%")
    if all(name in accuracies for name in TASKS):
        print0(f"ChatCORE metric: {chatcore(accuracies):.4f}")
    compute_cleanup()


if __name__ == "__main__":
    main()
