"""How big a model is: its parameters, from a checkpoint's meta or from its tag. Pure."""
from __future__ import annotations

import json
import re
from typing import Any

from nanolan.errors import PreflightFailed

D20 = 560_988_160            # what the guide's times and dollars are of
VOCABULARY = 65_536


def parameters_of(meta: bytes, where: str) -> int:
    """Parameters of the model that a meta_SSSSSS.json describes; PreflightFailed names `where` when it tells nothing."""
    try:
        c: dict[str, Any] = json.loads(meta)["model_config"]
        width, layers, vocabulary = int(c["n_embd"]), int(c["n_layer"]), int(c["vocab_size"])
        kv = width * int(c["n_kv_head"]) // int(c["n_head"])
    except (ValueError, KeyError, TypeError, ZeroDivisionError, OverflowError) as e:
        raise PreflightFailed(f"{where} holds no usable model_config ({type(e).__name__}: {e})") from None
    return _parameters(width, layers, vocabulary, kv)


def parameters_of_tag(tag: str) -> int:
    """Parameters of nanochat's model of a tag such as d32 or d20-exp1, whose width is 64 x depth; a d20's for any other tag."""
    m = re.match(r"d([1-9][0-9]{0,2})(?![0-9])", tag)
    return _parameters(64 * int(m[1]), int(m[1]), VOCABULARY, 64 * int(m[1])) if m else D20


def _parameters(width: int, layers: int, vocabulary: int, kv: int) -> int:
    """Embedding and head, and per layer q and o, k and v, and the two matrices of the MLP."""
    return 2 * vocabulary * width + layers * (10 * width * width + 2 * width * kv)
