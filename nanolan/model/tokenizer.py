"""The tokenizer in nanochat's files: tokenizer.pkl (a pickled tiktoken.Encoding) and token_bytes.pt.

A pickle is a program: nanolan/checkpoint/safe_pickle.py takes the state out of it and runs none of its code; the Encoding is built
here. torch is imported only where a tensor is made: processes that tokenise do without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import tiktoken

from nanolan.checkpoint.architecture import check_token_bytes
from nanolan.checkpoint.safe_pickle import (
    MAX_TOKENIZER_BYTES,
    SPECIAL_TOKENS,
    encoding_state,
)
from nanolan.checkpoint.torch_file import tensors
from nanolan.errors import BadAnswer

if TYPE_CHECKING:
    import torch


PIECE = 100_000  # characters that are encoded at once
SAMPLE = "It's 10 times: (a+b) ~ \u00e9\u6f22\U0001f600!\r\n\n  end"  # a pattern must split this text without loss


class Tokenizer:
    """Text to ids. Special strings inside text are ordinary text; only `special` makes special tokens."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding
        self._special = {name: encoding._special_tokens[name] for name in SPECIAL_TOKENS}
        self.vocab_size = encoding.n_vocab
        self.bos = self._special["<|bos|>"]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; BadAnswer when tiktoken cannot split it."""
        if len(text) > PIECE:  # tiktoken's pattern fails on a run of a million blanks
            return [
                token
                for at in range(0, len(text), PIECE)
                for token in self.encode(text[at : at + PIECE])
            ]
        try:
            return self._encoding.encode_ordinary(text)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as e:  # a Rust panic is not an Exception
            raise BadAnswer(
                f"the tokenizer cannot read {text[:40]!r} ({type(e).__name__}: {str(e)[:100]})"
            ) from None

    def decode(self, ids: list[int]) -> str:
        """The text of ids, specials spelled out, invalid UTF-8 replaced."""
        return self._encoding.decode(ids)

    def bytes_of(self, token: int) -> bytes:
        """The bytes of one token."""
        return self._encoding.decode_single_token_bytes(token)

    def special(self, name: str) -> int:
        """The id of a special token by its short name, e.g. "user_start"."""
        return self._special[f"<|{name}|>"]

    def parts(self) -> tuple[dict[bytes, int], str]:
        """The merge ranks (token bytes -> id) and the split pattern, for export."""
        return dict(self._encoding._mergeable_ranks), self._encoding._pat_str

    def token_bytes(self) -> torch.Tensor:
        """int32 (V,): raw bytes of each token, 0 for specials."""
        import torch

        ranks = self._encoding._mergeable_ranks
        sizes = torch.zeros(self.vocab_size, dtype=torch.int32)
        sizes[list(ranks.values())] = torch.tensor([len(b) for b in ranks], dtype=torch.int32)
        return sizes


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in `folder`/tokenizer.pkl; BadAnswer unless it is a pickle of nanochat's kind."""
    path = folder / "tokenizer.pkl"
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise BadAnswer(f"{path}: larger than {MAX_TOKENIZER_BYTES >> 20} MiB, not a tokenizer")
        data = path.read_bytes()
    except OSError as e:
        raise BadAnswer(f"{path}: cannot be read ({e.strerror})") from None
    tokenizer = Tokenizer(_encoding(encoding_state(data, str(path)), path))
    _check_sizes(folder / "token_bytes.pt", tokenizer)
    return tokenizer


def _check_sizes(path: Path, tokenizer: Tokenizer) -> None:
    """BadAnswer when token_bytes.pt belongs to another tokenizer; checked early, since mid reads it only after its last step."""
    if path.exists():
        with open(path, "rb") as f:
            check_token_bytes(tensors(f, str(path)), tokenizer.vocab_size, str(path))


def load_token_bytes(folder: Path, tokenizer: Tokenizer) -> torch.Tensor:
    """int32 (V,) bytes per token: token_bytes.pt if it is there, else counted from the vocabulary."""
    path = folder / "token_bytes.pt"
    if not path.exists():
        return tokenizer.token_bytes()
    import torch

    try:
        _check_sizes(path, tokenizer)
        sizes = torch.load(path, map_location="cpu", weights_only=True)
    except BadAnswer:
        raise
    except Exception as e:  # torch raises many kinds for a damaged or hostile file
        raise BadAnswer(f"{path}: cannot be loaded ({type(e).__name__})") from None
    return sizes.to(torch.int32)


def _encoding(state: dict[str, Any], path: Path) -> tiktoken.Encoding:
    try:
        encoding = tiktoken.Encoding(**state)
        kept = encoding.decode(encoding.encode_ordinary(SAMPLE))
    except (KeyboardInterrupt, SystemExit):
        raise
    except (
        BaseException
    ) as e:  # ValueError, or for some patterns a Rust panic, which is not an Exception
        raise BadAnswer(f"{path}: tiktoken refuses it ({type(e).__name__}: {e})") from None
    if kept != SAMPLE:
        raise BadAnswer(f"{path}: its pattern loses text: {SAMPLE!r} becomes {kept!r}")
    return encoding
