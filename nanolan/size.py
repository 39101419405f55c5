"""How big a model is: from a checkpoint's meta, or from its tag. Pure."""
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanolan.errors import BadAnswer, PreflightFailed

D20 = 560_988_160            # parameters; what the guide's times and dollars are of
VOCABULARY = 65_536


@dataclass(frozen=True)
class ModelSize:
    """What of a model's configuration its size depends on."""

    vocab_size: int
    n_layer: int
    n_embd: int
    kv_share: float = 1.0        # n_kv_head / n_head

    @property
    def n_params(self) -> int:
        """2 V C + L (10 C C + 2 C C kv_share): embedding, head, and per layer q, o, MLP and k, v."""
        C = self.n_embd
        return 2 * self.vocab_size * C + round(self.n_layer * (10 + 2 * self.kv_share) * C * C)


def size_of(model_config: Mapping[str, Any], where: str) -> ModelSize:
    """The size in a meta file's model_config; BadAnswer if it is not there."""
    try:
        c = {key: int(model_config[key]) for key in ("vocab_size", "n_layer", "n_embd", "n_head", "n_kv_head")}
        if min(c.values()) < 1:
            raise ValueError("a size of nothing")
    except (ValueError, KeyError, TypeError, OverflowError) as e:
        raise BadAnswer(f"{where} holds no usable model_config ({type(e).__name__}: {e})") from None
    return ModelSize(c["vocab_size"], c["n_layer"], c["n_embd"], c["n_kv_head"] / c["n_head"])


def read_size(meta: bytes, where: str) -> ModelSize:
    """The size of the model that a meta_SSSSSS.json describes; PreflightFailed names `where` when it tells nothing."""
    try:
        return size_of(json.loads(meta)["model_config"], where)
    except (ValueError, KeyError, TypeError, RecursionError, BadAnswer) as e:
        raise PreflightFailed(f"{where} holds no usable model_config ({type(e).__name__}: {e})") from None


def parameters_of_tag(tag: str) -> int:
    """Parameters of nanochat's model of a tag such as d32 or d20-exp1, whose width is 64 x depth; a d20's for any other tag."""
    m = re.match(r"d([1-9][0-9]{0,2})(?![0-9])", tag)
    return ModelSize(VOCABULARY, int(m[1]), 64 * int(m[1])).n_params if m else D20
