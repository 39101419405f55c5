"""Makes a tiny untrained checkpoint of a fork's own architecture, for rehearsals:

    python tiny_base.py FOLDER VOCABULARY [SIZES]

SIZES is a JSON object with fields of the fork's GPTConfig that win over SMALL.

Writes FOLDER/model_000010.pt and meta_000010.json with the fork's GPT and GPTConfig. Imports nothing of nanolan.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path

STEP = 10
SEQUENCE = 128
# What an architecture has of these is set; the rest stays as it is by default
SMALL = {"sequence_len": SEQUENCE, "n_layer": 2, "n_head": 2, "n_kv_head": 2, "n_embd": 64}


def main(argv: list[str]) -> int:
    """0 if it was written."""
    folder, vocabulary = Path(argv[0]), int(argv[1])
    sys.path.insert(0, str(Path.cwd()))
    import torch

    torch.manual_seed(42)
    gpt = importlib.import_module("nanochat.gpt")
    known = {f.name for f in dataclasses.fields(gpt.GPTConfig)}
    sizes = SMALL | {"vocab_size": vocabulary} | (json.loads(argv[2]) if len(argv) > 2 else {})
    config = gpt.GPTConfig(**{name: v for name, v in sizes.items() if name in known})
    model = gpt.GPT(config)
    model.init_weights()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / f"model_{STEP:06d}.pt")
    meta = {
        "step": STEP,
        "val_bpb": None,
        "model_config": dataclasses.asdict(config),
        "user_config": {"depth": sizes["n_layer"]},
        "device_batch_size": 2,
        "total_batch_size": 1024,
        "max_seq_len": sizes["sequence_len"],
    }
    (folder / f"meta_{STEP:06d}.json").write_text(json.dumps(meta, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
