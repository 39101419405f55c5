"""base -> sft. Kept: no SIGTERM handler, saves once at the end, inherits from the base, asserts the batch after loading.

torchrun --standalone --nproc_per_node=2 -m scripts.chat_sft -- --device-batch-size=4
"""

import argparse
import time
from dataclasses import asdict

import torch
import torch.distributed as dist
from nanochat.checkpoint_manager import load_model, load_optimizer_state, save_checkpoint
from nanochat.common import (
    PEAK_FLOPS,
    autodetect_device_type,
    compute_cleanup,
    compute_init,
    get_base_dir,
    peak_mib,
    print0,
)
from nanochat.dataloader import PackedLoader
from nanochat.loss_eval import evaluate_bpb
from nanochat.tokenizer import get_token_bytes
from scripts.chat_eval import CATEGORICAL, TASKS, chatcore, run_chat_eval
from scripts.chat_eval import parser as eval_parser
from tasks.common import TaskMixture
from tasks.gsm8k import GSM8K
from tasks.mmlu import MMLU
from tasks.smoltalk import SmolTalk

parser = argparse.ArgumentParser()
parser.add_argument("--run", type=str, default="dummy")
parser.add_argument("--device-type", type=str, default="")
parser.add_argument("--model-tag", type=str, default=None)
parser.add_argument("--model-step", type=int, default=None)
parser.add_argument("--load-optimizer", type=int, default=1)
parser.add_argument("--num-iterations", type=int, default=-1)
parser.add_argument("--max-seq-len", type=int, default=None)
parser.add_argument("--device-batch-size", type=int, default=None)
parser.add_argument("--total-batch-size", type=int, default=None)
parser.add_argument("--embedding-lr", type=float, default=None)
parser.add_argument("--unembedding-lr", type=float, default=None)
parser.add_argument("--matrix-lr", type=float, default=None)
parser.add_argument("--init-lr-frac", type=float, default=0.8)
parser.add_argument("--warmup-ratio", type=float, default=0.0)
parser.add_argument("--warmdown-ratio", type=float, default=0.5)
parser.add_argument("--final-lr-frac", type=float, default=0.0)
parser.add_argument("--eval-every", type=int, default=20)
parser.add_argument("--eval-tokens", type=int, default=2048)
parser.add_argument("--chatcore-every", type=int, default=20)
parser.add_argument("--chatcore-max-cat", type=int, default=16)
parser.add_argument("--chatcore-max-sample", type=int, default=2)
parser.add_argument("--mmlu-epochs", type=int, default=3)
parser.add_argument("--gsm8k-epochs", type=int, default=4)

FALLBACK = {
    "max_seq_len": 256,
    "device_batch_size": 4,
    "total_batch_size": 2048,
    "embedding_lr": 0.2,
    "unembedding_lr": 0.004,
    "matrix_lr": 0.02,
}  # for what neither the command line nor the base says


def inherit(args, meta):
    """Options that are not given come from the base's meta."""
    known = meta.get("user_config", {}) | {k: meta[k] for k in FALLBACK if k in meta}
    for name, fallback in FALLBACK.items():
        if getattr(args, name) is None:
            setattr(args, name, known.get(name, fallback))
            print0(f"{name} = {getattr(args, name)}, inherited")


def accumulation(args, ranks):
    """Micro-batches per step; fails when they do not divide."""
    tokens = args.device_batch_size * args.max_seq_len * ranks
    assert args.total_batch_size % tokens == 0, "the total batch size is no multiple of a pass"
    print0(f"Tokens per pass over all ranks: {tokens:,}")
    return args.total_batch_size // tokens


def lr_multiplier(args, progress):
    """Linear up, constant, linear down; negative when progress passes 1."""
    if progress < args.warmup_ratio:
        return (progress + 1e-8) / args.warmup_ratio
    if progress <= 1 - args.warmdown_ratio:
        return 1.0
    down = (progress - (1 - args.warmdown_ratio)) / args.warmdown_ratio
    return (1 - down) + down * args.final_lr_frac


def make_optimizer(args, model, device, rank):
    """The optimizer, with the base's state if there is one; its learning rates are ours."""
    optimizer = model.setup_optimizer(args.unembedding_lr, args.embedding_lr, args.matrix_lr)
    rates = [group["lr"] for group in optimizer.param_groups]
    if args.load_optimizer:
        shard = load_optimizer_state("base", device, rank, args.model_tag, args.model_step)
        if shard is not None:
            optimizer.load_state_dict(shard)
            print0("The optimizer starts from the base's state")
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["initial_lr"] = group["lr"] = rate * args.init_lr_frac
    return optimizer


def datasets(args):
    """(train, val)"""
    train = [SmolTalk("train")]
    train += [MMLU("all", "auxiliary_train") for _ in range(args.mmlu_epochs)]
    train += [GSM8K("train") for _ in range(args.gsm8k_epochs)]
    val = [SmolTalk("test"), MMLU("all", "test", stop=5200), GSM8K("test", stop=420)]
    return TaskMixture(train), TaskMixture(val)


class Trainer:
    """What the loop needs in one place."""

    def __init__(self, args):
        self.args = args
        device_type = args.device_type or autodetect_device_type()
        self.ddp, self.rank, _, self.ranks, self.device = compute_init(device_type)
        tag, step = args.model_tag, args.model_step
        self.model, self.tokenizer, meta = load_model("base", self.device, "train", tag, step)
        inherit(args, meta)
        self.accumulation = accumulation(args, self.ranks)
        self.optimizer = make_optimizer(args, self.model, self.device, self.rank)
        self.token_bytes = get_token_bytes(self.device)
        self.train_data, self.val_data = datasets(args)
        self.loader = self.new_loader(self.train_data, args.num_iterations)
        self.batches = iter(self.loader)
        self.batch = next(self.batches)
        self.step, self.seconds = 0, 0.0
        self.val_bpb = self.least_bpb = float("inf")

    def new_loader(self, data, num_iterations=-1):
        B, T = self.args.device_batch_size, self.args.max_seq_len
        return PackedLoader(
            data, self.tokenizer, B, T, self.rank, self.ranks, self.device, num_iterations
        )

    def is_last(self):
        """Whether any rank is at its end."""
        last = torch.tensor(int(self.loader.last), device=self.device)
        if self.ddp:
            dist.all_reduce(last, op=dist.ReduceOp.MAX)
        return bool(last)

    def validate(self):
        args = self.args
        steps = args.eval_tokens // (args.device_batch_size * args.max_seq_len * self.ranks)
        self.model.eval()
        batches = iter(self.new_loader(self.val_data))
        self.val_bpb = evaluate_bpb(self.model, batches, max(1, steps), self.token_bytes)
        self.least_bpb = min(self.least_bpb, self.val_bpb)
        self.model.train()
        print0(f"Step {self.step:05d} | Validation bpb: {self.val_bpb:.4f}")

    def exams(self):
        """ChatCORE on a few problems of each task."""
        self.model.eval()
        found = {}
        for name in TASKS:
            cat = name in CATEGORICAL
            most = self.args.chatcore_max_cat if cat else self.args.chatcore_max_sample
            given = eval_parser().parse_args(["-i", "sft", "-x", str(most)])
            found[name] = run_chat_eval(name, self.model, self.tokenizer, given)
        self.model.train()
        categorical = chatcore({n: found[n] for n in CATEGORICAL})
        line = f"ChatCORE: {chatcore(found):.4f} | ChatCORE_cat: {categorical:.4f}"
        print0(f"Step {self.step:05d} | {line}")
        for name, accuracy in found.items():
            print0(f"  {name}: {100 * accuracy:.2f}%")

    def train_step(self):
        begun = time.time()
        for _ in range(self.accumulation):
            loss = self.model(*self.batch)
            (loss / self.accumulation).backward()
            self.batch = next(self.batches)
        multiplier = lr_multiplier(self.args, self.loader.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * multiplier
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)
        value = loss.item()
        self.step += 1
        self.report(value, multiplier, time.time() - begun)

    def report(self, loss, multiplier, seconds):
        rate = int(self.args.total_batch_size / seconds)
        flops = self.model.estimate_flops() * self.args.total_batch_size / seconds
        mfu = 100 * flops / (PEAK_FLOPS * self.ranks)
        if self.step > 10:  # the first ones are no measure
            self.seconds += seconds
        fields = [
            f"step {self.step:05d} ({100 * self.loader.progress:.2f}%)",
            f"loss: {loss:.6f}",
            f"lrm: {multiplier:.2f}",
            f"dt: {1000 * seconds:.2f}ms",
            f"tok/sec: {rate:,}",
            f"mfu: {mfu:.2f}",
            f"epoch: {self.loader.epoch}",
            f"total time: {self.seconds / 60:.2f}m",
        ]
        print0(" | ".join(fields))

    def save(self):
        config = self.model.config
        tag = self.args.model_tag or f"d{config.n_layer}"
        meta = {
            "step": self.step,
            "val_bpb": self.val_bpb,
            "model_config": asdict(config) | {"sequence_len": self.args.max_seq_len},
            "user_config": vars(self.args),
        }
        folder = get_base_dir() / "chatsft_checkpoints" / tag
        model, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        save_checkpoint(folder, self.step, model, optimizer, meta, rank=self.rank)

    def train(self):
        every, exams = self.args.eval_every, self.args.chatcore_every
        while True:
            last = self.is_last()
            if last or (every > 0 and self.step % every == 0):
                self.validate()
            if exams > 0 and (last or (self.step > 0 and self.step % exams == 0)):
                self.exams()
            if last:
                return self.save()
            self.train_step()


def main():
    trainer = Trainer(parser.parse_args())
    trainer.train()
    print0(f"Peak memory usage: {peak_mib():.2f}MiB")
    print0(f"Total training time: {trainer.seconds / 60:.2f}m")
    print0(f"Minimum validation bpb: {trainer.least_bpb:.4f}")
    compute_cleanup()


if __name__ == "__main__":
    main()
