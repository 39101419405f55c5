"""A tiny untrained base checkpoint and tokenizer in nanochat's formats, for rehearsals and tests.

write_tiny(folder, texts)   ->  folder/base_checkpoints/d20/{model_000010.pt,meta_000010.json}
                                folder/tokenizer/{tokenizer.pkl,token_bytes.pt}
"""

from __future__ import annotations

import pickle
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import tiktoken
import torch

from nanolan.checkpoint.architecture import GPTConfig
from nanolan.errors import UsageProblem
from nanolan.model.checkpoint import write_files
from nanolan.model.gpt import GPT
from nanolan.model.tokenizer import SPECIAL_TOKENS, Tokenizer

STEP = 10
MAX_WORDS = 4000
# Means the same in Python's re and in tiktoken, and matches every character.
PATTERN = r"\d{1,2}| ?[^\W\d_]+| ?(?:[^\s\w]|_)+|\s+"


def write_tiny(
    folder: Path,
    texts: list[str],
    tag: str = "d20",
    n_merges: int = 256,
    n_layer: int = 2,
    n_embd: int = 64,
    n_head: int = 2,
    sequence_len: int = 256,
    seed: int = 0,
) -> None:
    """Write a base checkpoint and a tokenizer learned from `texts`; at most `n_merges`, vocabulary a multiple of 8."""
    encoding = learn_encoding(texts, n_merges)
    (tokenizer := folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    (tokenizer / "tokenizer.pkl").write_bytes(pickle.dumps(encoding))
    torch.save(Tokenizer(encoding).token_bytes(), tokenizer / "token_bytes.pt")

    config = GPTConfig(sequence_len, encoding.n_vocab, n_layer, n_head, n_head, n_embd)
    meta = {
        "step": STEP,
        "val_bpb": None,
        "model_config": asdict(config),
        "user_config": {"depth": n_layer},
        "device_batch_size": 4,
        "max_seq_len": sequence_len,
    }
    (base := folder / "base_checkpoints" / tag).mkdir(parents=True, exist_ok=True)
    write_files(base, STEP, GPT.fresh(config, seed), meta)


def learn_encoding(texts: list[str], n_merges: int) -> tiktoken.Encoding:
    """256 bytes, then merges learned from `texts`, then the specials."""
    merges = learn_merges(texts, n_merges)
    extra = (256 + len(merges) + len(SPECIAL_TOKENS)) % 8
    if len(merges) < extra:
        raise UsageProblem(f"too little text to learn a tokenizer from: {len(merges)} merges")
    merges = merges[: len(merges) - extra]
    ranks = {token: i for i, token in enumerate([bytes([b]) for b in range(256)] + merges)}
    specials = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
    return tiktoken.Encoding(
        name="rustbpe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=specials
    )


def learn_merges(texts: list[str], n_merges: int) -> list[bytes]:
    """Byte-pair encoding: new tokens, most frequent pair first; ends early when no pair is left."""
    counts = Counter(piece for text in texts for piece in re.findall(PATTERN, text))
    words = [
        ([bytes([b]) for b in piece.encode()], n) for piece, n in counts.most_common(MAX_WORDS)
    ]
    merges: list[bytes] = []
    while len(merges) < n_merges:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, n in words:
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += n
        if not pairs:
            break
        a, b = max(pairs, key=lambda pair: (pairs[pair], pair))
        words = [(_merge(word, a, b), n) for word, n in words]
        if a + b not in merges:  # two splits of one token: keep it once
            merges.append(a + b)
    return merges


def _merge(word: list[bytes], a: bytes, b: bytes) -> list[bytes]:
    out: list[bytes] = []
    for token in word:
        if out and out[-1] == a and token == b:
            out[-1] = a + b
        else:
            out.append(token)
    return out
