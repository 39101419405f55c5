"""tokenizer.pkl is read and never run."""

from __future__ import annotations

import pickle

import tiktoken

from nanolan.checkpoint.safe_pickle import SPECIAL_TOKENS, encoding_state

ENCODING = tiktoken.Encoding(
    "t",
    pat_str=".",
    mergeable_ranks={bytes([n]): n for n in range(256)},
    special_tokens={name: 256 + n for n, name in enumerate(SPECIAL_TOKENS)},
)


def test_a_tokenizers_state_is_read_without_tiktoken() -> None:
    state = encoding_state(pickle.dumps(ENCODING), "t.pkl")
    assert (state["name"], len(state["mergeable_ranks"]), state["special_tokens"]["<|bos|>"]) == (
        "t",
        256,
        256,
    )
