"""Sources of a fork's scripts, in both styles of options."""

from __future__ import annotations

import textwrap

from nanolan.trainers.scripts.options import Script, read_script

RUN = "config_keys = [k for k in globals()]\nexec(open(os.path.join('nanochat', 'configurator.py')).read())\n"
CONFIGURATOR = f"""
import os
run = "dummy"
source = "mid"  # base|mid
model_tag = None
num_epochs = 1
init_lr_frac = 0.02
dry_run = False
{RUN}
late = 1
model, tokenizer, meta = load_model(source, device, phase="train")
"""
ARGPARSE = """
import argparse
parser = argparse.ArgumentParser(description="SFT")
parser.add_argument("--run", type=str, default="dummy", help="wandb run name")
parser.add_argument("--model-tag", type=str, default=None)
parser.add_argument("--init-lr-frac", type=float, default=0.8)
parser.add_argument("--num-epochs", type=int, default=1)
parser.add_argument("--fp8", action="store_true")
parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
parser.add_argument("--recipe", choices=["row", "tensor"], default="row")
args = parser.parse_args()
"""


def read(source: str) -> Script:
    return read_script(textwrap.dedent(source), "scripts/chat_sft.py")
