"""A fresh base checkpoint for the tokenizer in NANOCHAT_BASE_DIR. Kept: each rank writes its shard of the optimizer.

python -m scripts.tiny_base --model-tag=d2
"""

import argparse
from dataclasses import asdict

import torch
from nanochat.checkpoint_manager import save_checkpoint
from nanochat.common import compute_cleanup, compute_init, get_base_dir
from nanochat.gpt import GPT, GPTConfig
from nanochat.tokenizer import get_tokenizer

parser = argparse.ArgumentParser()
parser.add_argument("--model-tag", type=str, default="d2")
parser.add_argument("--depth", type=int, default=2)
parser.add_argument("--n-embd", type=int, default=64)
parser.add_argument("--max-seq-len", type=int, default=128)
parser.add_argument("--device-batch-size", type=int, default=4)
parser.add_argument("--total-batch-size", type=int, default=2048)
parser.add_argument("--step", type=int, default=10)
parser.add_argument("--save-optimizer", type=int, default=0)


def optimizer_state(model, tokens):
    """The optimizer's state after one step."""
    optimizer = model.setup_optimizer()
    ids = torch.randint(tokens, (2, 16))
    model(ids, ids).backward()
    optimizer.step()
    return optimizer.state_dict()


def main():
    args = parser.parse_args()
    _, rank, _, _, _ = compute_init("cpu")
    vocab = get_tokenizer().get_vocab_size()
    heads = args.n_embd // 32
    model = GPT(GPTConfig(args.max_seq_len, vocab, args.depth, heads, heads, args.n_embd, "SL"))
    model.init_weights()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = optimizer_state(model, vocab) if args.save_optimizer else None
    sizes = {k: getattr(args, k) for k in ("max_seq_len", "device_batch_size", "total_batch_size")}
    meta = {
        "step": args.step,
        "val_bpb": None,
        "model_config": asdict(model.config),
        "user_config": {"depth": args.depth, **sizes},
        **sizes,
    }
    folder = get_base_dir() / "base_checkpoints" / args.model_tag
    save_checkpoint(folder, args.step, weights, optimizer, meta, rank=rank)
    compute_cleanup()


if __name__ == "__main__":
    main()
