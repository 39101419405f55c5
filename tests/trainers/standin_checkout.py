"""A small stand-in for a nanochat checkout: load_model, save_checkpoint, and scripts that train a small model.

`scripts.chat_sft` prints "at PLACE" and waits where `--pause PLACE:SECONDS` says: load, start, optimizer (in
a step), between (two optimizers of a step), eval (after a step), end, exit; `--pause-step` is the step it does so in.
"""

from __future__ import annotations

from pathlib import Path

# The first optimizer of a process imports torch._dynamo, for 4 s
QUICK = """
import sys, types
dynamo = types.ModuleType("torch._dynamo")
dynamo.disable = lambda fn, *args, **kwargs: fn
dynamo.graph_break = lambda: None
sys.modules.setdefault("torch._dynamo", dynamo)
"""

MANAGER = """
import json, os, time
import torch

class GPT(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = torch.nn.Linear(8, 64)
        self.h = torch.nn.Linear(64, 8, bias=False)

    def forward(self, x):
        return self.h(torch.relu(self.wte(x)))

class Compiled(torch.nn.Module):
    # as torch.compile wraps a model
    def __init__(self, model):
        super().__init__()
        self._orig_mod = model

    def __getattr__(self, name):
        model = self.__dict__["_modules"]["_orig_mod"]
        return model if name == "_orig_mod" else getattr(model, name)

    def forward(self, x):
        return self._orig_mod(x)

def save_checkpoint(folder, step, model_data, optimizer_data, meta_data, rank=0):
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/model_{step:06d}.pt", "wb") as f:
        torch.save(model_data, f)
        print("at save", flush=True)
        time.sleep(float(os.environ.get("SAVE_S", 0)))
    with open(f"{folder}/meta_{step:06d}.json", "w") as f:
        json.dump(meta_data, f)

def load_model(source, device, phase, model_tag=None, step=None):
    torch.manual_seed(1)
    model = Compiled(GPT()) if os.environ.get("COMPILED") else GPT()
    return model, "tokenizer", {"step": 7, "model_config": {"n_layer": 1}}
"""

OPTIMIZERS = """
import torch
import torch.distributed as dist

class Muon(torch.optim.Optimizer):
    def __init__(self, params, pause=lambda: None):
        super().__init__(list(params), {"lr": 0.01})
        self.pause = pause

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad.sign(), alpha=-group["lr"])
                self.pause()

class Unhooked(Muon):
    def _patch_step_function(self):
        self._zero_grad_profile_name = "Unhooked"

    def step(self):
        super().step()
        self.pause()

class Plain:
    def __init__(self, params, pause=None):
        self.params = list(params)

    @torch.no_grad()
    def step(self):
        for p in self.params:
            p.add_(p.grad, alpha=-0.01)

class DistMuon(Muon):
    # in the style of nanochat: each rank computes a slice of the update
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                mine = torch.empty_like(p.grad.view(-1)[: p.numel() // dist.get_world_size()])
                work = dist.reduce_scatter_tensor(mine, p.grad.view(-1), op=dist.ReduceOp.AVG, async_op=True)
                work.get_future().wait()
                whole = torch.empty_like(p.view(-1))
                dist.all_gather_into_tensor(whole, mine, async_op=True).get_future().wait()
                p.add_(whole.view_as(p).sign(), alpha=-group["lr"])
                self.pause()
"""

SCRIPT = """
import argparse, atexit, os, resource, signal, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=100000)
parser.add_argument("--step-s", type=float, default=0.01)
parser.add_argument("--optimizers", default="AdamW", help="several: AdamW,Muon")
parser.add_argument("--pause", default=":0")
parser.add_argument("--pause-step", type=int, default=5)
parser.add_argument("--hang", type=int, default=0, help="only rank 0 takes part in a collective of this step")
parser.add_argument("--every-other", action="store_true", help="the second optimizer steps in even steps")
parser.add_argument("--limit", type=int, default=0, help="largest size of a file in training")
parser.add_argument("--fail", default="", help="exit with this code, or raise this text")
args = parser.parse_args()
import torch
import torch.distributed as dist
import nanochat.optim
from nanochat.checkpoint_manager import load_model, save_checkpoint

rank = int(os.environ.get("RANK", 0))
step = 0
place, _, seconds = args.pause.partition(":")

def pause(here):
    if here == place and step in (0, args.pause_step) and not rank:
        print("at", here, flush=True)
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            time.sleep(0.01)

pause("load")
orig_model, tokenizer, meta = load_model("base", "cpu", phase="train")
model = orig_model
pause("start")
atexit.register(lambda: pause("exit"))
if args.limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (args.limit, -1))
made = []
for name, part in zip(args.optimizers.split(","), (model.wte, model.h) if "," in args.optimizers else (model,)):
    if name == "AdamW":
        made.append(torch.optim.AdamW(part.parameters(), lr=0.01))
    else:
        made.append(getattr(nanochat.optim, name)(part.parameters(), lambda: pause("optimizer")))
for step in range(1, args.steps + 1):
    torch.manual_seed(100 + step)
    x = torch.randn(4, 8)
    loss = (model(x) - x).square().mean()
    loss.backward()
    if args.hang == step and not rank:
        print("at hang", flush=True)
        dist.barrier()
    if dist.is_initialized():
        dist.all_reduce(loss.detach(), op=dist.ReduceOp.AVG)
    time.sleep(args.step_s)
    for optimizer in made:
        if optimizer is made[0] or not args.every_other or step % 2 == 0:
            optimizer.step()
        if optimizer is made[0]:
            pause("between")
    model.zero_grad(set_to_none=True)
    if step % 10 == 0 and not rank:
        print("step", step, flush=True)
    pause("eval")
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
if not rank:
    save_checkpoint("own", args.steps, orig_model.state_dict(), None, {"step": args.steps})
step = 0
pause("end")
if dist.is_initialized():
    dist.destroy_process_group()
if args.fail:
    raise SystemExit(int(args.fail)) if args.fail.isdigit() else ValueError(args.fail)
print("done", sys.argv[1:], flush=True)
"""

COLLECTIVES = """
import os, time
import torch, torch.distributed as dist
rank = dist.get_rank()
AVG = dist.ReduceOp.AVG
mine = torch.arange(4.0) + 10 * rank
t = mine.clone(); dist.all_reduce(t, op=AVG); assert t.tolist() == [5, 6, 7, 8], t
t = mine.clone(); dist.all_reduce(t); assert t.tolist() == [10, 12, 14, 16], t
t = torch.empty(2); w = dist.reduce_scatter_tensor(t, mine.clone(), op=AVG, async_op=True)
w.wait(); assert t.tolist() == [[5, 6], [7, 8]][rank], t
t = torch.empty(8); dist.all_gather_into_tensor(t, mine); assert t.tolist() == [0, 1, 2, 3, 10, 11, 12, 13], t
t = torch.empty(2, 4); dist.all_gather_into_tensor(t, mine); assert t[1].tolist() == mine.add(10 * (1 - rank)).tolist(), t
ts = [torch.empty(4), torch.empty(4)]; dist.all_gather(ts, mine, async_op=True).get_future().wait()
assert ts[1][0] == 10, ts
t = torch.empty(4); dist.reduce_scatter(t, [mine, mine + 1], op=AVG); assert t[0] == 5 + rank, t
assert torch.ones(2, 5)[:, :-1].view(-1).tolist() == [1] * 8
try:
    torch.ones(2, 5).view(3)
except RuntimeError as e:
    assert "invalid for input of size" in str(e), e
dist.init_process_group("nccl")
dist.barrier()
print("right", flush=True)
open(f"right{rank}", "w").close()
while not os.path.exists(f"right{1 - rank}"):  # its end fails a collective that the other is still in
    time.sleep(0.01)
os._exit(0)
"""

# A fork that handles SIGTERM itself, and a child that is stopped by one
OWN_HANDLER = """
import os, signal, time
child = os.fork()
if not child:
    signal.signal(signal.SIGALRM, lambda *_: None)
    os.kill(os.getpid(), signal.SIGALRM)
    time.sleep(60)
time.sleep(0.1)
os.kill(child, signal.SIGTERM)
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
time.sleep(0.5)
signal.signal(signal.SIGTERM, lambda *_: print("own handler", flush=True))
print("at own", flush=True)
time.sleep(1)
print("done", flush=True)
"""

# Trains without the keeper and compares its result with a file. Python's own end takes 0.4 s with torch
REFERENCE = """
import os, runpy, sys
import torch
sys.path.insert(0, ".")
kept = sys.argv.pop(1)
runpy.run_module("scripts.chat_sft", run_name="__main__", alter_sys=True)
a, b = (torch.load(path, weights_only=True) for path in (f"own/{os.path.basename(kept)}", kept))
same = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
os._exit(0 if same else 9)
"""

FILES = {
    "reference.py": REFERENCE,
    "nanochat/__init__.py": QUICK,
    "nanochat/checkpoint_manager.py": MANAGER,
    "nanochat/optim.py": OPTIMIZERS,
    "scripts/__init__.py": "",
    "scripts/chat_sft.py": SCRIPT,
    "scripts/collectives.py": COLLECTIVES,
    "scripts/own_handler.py": OWN_HANDLER,
}


def write_checkout(folder: Path) -> Path:
    """Write the stand-in into a folder."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
