"""A nanochat checkpoint as Hugging Face files: safetensors, config and tokenizer for NanoChatForCausalLM.

Two things differ from our own forward pass, by the definition of that class: rotary tables in the model's dtype
(nanochat keeps them in bf16), and 1e-6 in the RMS norm (nanochat: the framework's epsilon).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nanolan.checkpoint.architecture import GPTConfig
from nanolan.errors import UsageProblem
from nanolan.model.checkpoint import load
from nanolan.model.tokenizer import SPECIAL_TOKENS, Tokenizer, load_tokenizer

# nanochat's name of a module -> the class's name
OUTER = {"transformer.wte.weight": "model.embed_tokens.weight", "lm_head.weight": "lm_head.weight"}
INNER = {
    "attn.c_q": "self_attn.q_proj",
    "attn.c_k": "self_attn.k_proj",
    "attn.c_v": "self_attn.v_proj",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}

# The conversation format of nanolan/model/conversation.py; a system message joins the first user message
CHAT_TEMPLATE = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}"
    "{% elif m.role == 'user' %}<|user_start|>{{ ns.system + m.content }}<|user_end|>{% set ns.system = '' %}"
    "{% else %}<|assistant_start|>{{ m.content }}<|assistant_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant_start|>{% endif %}"
)


def export(checkpoint: Path, tokenizer_dir: Path, target: Path) -> None:
    """Write model.safetensors (bf16), config.json and the tokenizer's files to `target`, which must not exist yet."""
    if target.exists():
        raise UsageProblem(f"{target} exists already; choose a new folder")
    tokenizer, start = load_tokenizer(tokenizer_dir), load(checkpoint)
    tensors = {
        hf_name(k): v.to(torch.bfloat16).contiguous() for k, v in start.model.state_dict().items()
    }
    target.mkdir(parents=True)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "model.safetensors").chmod(ordinary_mode())
    texts = {
        "config.json": model_config(start.model.config, tokenizer),
        "tokenizer.json": tokenizer_json(tokenizer),
        "tokenizer_config.json": tokenizer_config(start.model.config),
        "generation_config.json": {
            "bos_token_id": tokenizer.bos,
            "eos_token_id": tokenizer.special("assistant_end"),
        },
    }
    for name, value in texts.items():
        (target / name).write_text(json.dumps(value, indent=2, ensure_ascii=False))


def ordinary_mode() -> int:
    """The user's default mode for new files; safetensors makes files that only the owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def hf_name(key: str) -> str:
    """The class's name of one of nanochat's state-dict keys."""
    if key in OUTER:
        return OUTER[key]
    _, _, layer, module, linear, weight = key.split(".")
    return f"model.layers.{layer}.{INNER[f'{module}.{linear}']}.{weight}"


def model_config(c: GPTConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json: the class's parameters, with the ids of the real special tokens."""
    end = tokenizer.special("assistant_end")
    return {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        "dtype": "bfloat16",
        "vocab_size": c.vocab_size,
        "hidden_size": c.n_embd,
        "intermediate_size": 4 * c.n_embd,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head,
        "max_position_embeddings": c.sequence_len,
        "hidden_act": "relu2",
        "rms_norm_eps": 1e-6,
        "final_logit_softcapping": 15.0,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "bos_token_id": tokenizer.bos,
        "eos_token_id": end,
        "pad_token_id": end,
    }


def tokenizer_config(c: GPTConfig) -> dict[str, Any]:
    """tokenizer_config.json, with the chat template."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|assistant_end|>",
        "pad_token": "<|assistant_end|>",
        "model_max_length": c.sequence_len,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer.json of the `tokenizers` library: the same pieces, merges and ids."""
    ranks, pattern = tokenizer.parts()
    vocab = {as_characters(token): rank for token, rank in ranks.items()}
    merges = [list(map(as_characters, halves(ranks, token))) for token in ranks if len(token) > 1]
    special = [
        {
            "id": tokenizer.special(name[2:-2]),
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name in SPECIAL_TOKENS
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": pattern},
                    "behavior": "Isolated",
                    "invert": False,
                },
                byte_level,
            ],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": vocab,
            "merges": merges,
        },
    }


def halves(ranks: Mapping[bytes, int], token: bytes) -> tuple[bytes, bytes]:
    """The two tokens whose merge made `token`: merging its bytes by rank, below its own rank, leaves these two."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, 1 << 30) for a, b in zip(parts, parts[1:])]  # noqa: B905  # one shorter on purpose
        i = min(range(len(pairs)), key=pairs.__getitem__)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


def as_characters(token: bytes) -> str:
    """Bytes in the byte-level alphabet: printable Latin-1 as itself, the rest from U+0100 on in order."""
    return "".join(_ALPHABET[b] for b in token)


def _alphabet() -> list[str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


_ALPHABET = _alphabet()
