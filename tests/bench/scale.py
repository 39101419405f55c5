"""What fewer or more GPUs would change: minutes and dollars of a d20's phases on 1 to 8 GPUs, and on N instances. Pure.

Nothing here was measured on GPUs. Step times are the estimates of docs/performance.md; the bytes are those of
nanolan/train/optim.py. The batch of a step is the recipe's and stays the same, so all GPUs share one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nanolan.checkpoint.model_size import VOCABULARY, ModelSize
from nanolan.train.recipe import RECIPES

NETWORKS = (10, 25, 100, 400, 3200)  # Gbit/s of an instance; 3200 is InfiniBand, 400 for each GPU
USED = 0.8  # share of a network's rate that reaches the gradients
INSTANCES = (2, 4, 8, 16, 32, 64)
STARTUP_S = 690.0  # boot, set-up, download, compile, upload, deletion: billed on every instance
D20_SIZE = ModelSize(VOCABULARY, 20, 1280)
STEPS = {"mid": 809, "sft": 701, "rl": 467}
SFT_HOST_S = 0.030  # a step of sft takes its host at least that long
SFT_ROWS = 8  # about 16,400 tokens
DECODE_WEIGHTS, DECODE_ROW = 0.95, 1 / 32  # GB read in a decode step: weights, cache of a row


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU: price, and seconds of a d20's steps on eight of them, by docs/performance.md."""

    name: str
    hourly_dollars: float  # of one
    mid_step_s: float  # 524,288 tokens
    decode_step_s: float  # 32 rows, at twice the floor
    update_s: float  # of rl, after its answers


H100 = Gpu("H100", 3.00, 0.485, 0.00114, 0.06)
B200 = Gpu("B200", 4.20, 0.214, 0.00050, 0.03)


@dataclass(frozen=True)
class Setup:
    """So many equal instances, with a network of `gbit_s` between them that nothing overlaps with."""

    gpu: Gpu
    gpus: int = 8  # of an instance
    instances: int = 1
    gbit_s: float = float("inf")

    @property
    def ranks(self) -> int:
        return self.gpus * self.instances

    def step_s(self, phase: str) -> float:
        """Seconds of a step."""
        mid = self.gpu.mid_step_s * 8 / self.ranks
        row = self.gpu.mid_step_s * 8 / 256  # 524,288 tokens are 256 rows
        recipe = RECIPES["rl"]
        rows = -(-recipe.questions_per_step // self.ranks) * recipe.samples
        read = (DECODE_WEIGHTS + DECODE_ROW * rows) / (DECODE_WEIGHTS + DECODE_ROW * 32)
        answers = recipe.max_new_tokens * self.gpu.decode_step_s * read
        here = {
            "mid": mid,
            "sft": max(SFT_HOST_S, row * -(-SFT_ROWS // self.ranks)),
            "rl": answers + self.gpu.update_s * 8 / self.ranks,
        }
        return here[phase] + self.between_s()

    def between_s(self) -> float:
        """Seconds that a step's bytes take over an instance's network; 0 for one instance."""
        sent = step_bytes(D20_SIZE) * (self.ranks - 1) / self.ranks
        return sent / (self.gbit_s * 1e9 / 8 * USED) if self.instances > 1 else 0.0

    def run_s(self, phase: str) -> float:
        """Seconds that each instance is billed."""
        return STARTUP_S + STEPS[phase] * self.step_s(phase)

    def dollars(self, phase: str) -> float:
        """What all instances cost together."""
        return self.ranks * self.gpu.hourly_dollars * self.run_s(phase) / 3600

    def text(self, phase: str) -> str:
        return f"{self.run_s(phase) / 60:.0f} min, ${self.dollars(phase):.2f}"


def step_bytes(size: ModelSize) -> float:
    """Bytes that one step's gradients and updates occupy on the wire of a ring, before the factor (ranks - 1) / ranks.

    Muon: gradients in fp32 reduce-scattered, updates in bf16 gathered. AdamW: head in fp32 and embedding in bf16, all-reduced.
    """
    table = size.vocab_size * size.n_embd
    matrices = size.n_params - 2 * table
    return matrices * (4 + 2) + table * 2 * (4 + 2)


def least_gbit_s(phase: str, gpu: Gpu, instances: int) -> float | None:
    """The network from which a step on so many instances is faster than on one; None if it never is."""
    gained = Setup(gpu).step_s(phase) - Setup(gpu, instances=instances).step_s(phase)
    return Setup(gpu, instances=instances, gbit_s=1).between_s() / gained if gained > 0 else None


def fewer_gpus() -> Iterator[str]:
    """Markdown: one instance of 1 to 8 GPUs."""
    yield "| one instance | mid | sft | rl |"
    yield "|---|---|---|---|"
    for gpu in (H100, B200):
        for gpus in (1, 2, 4, 8):
            setup = Setup(gpu, gpus)
            yield f"| {gpus}x {gpu.name} | {' | '.join(setup.text(phase) for phase in STEPS)} |"


def more_instances(phase: str, gpu: Gpu) -> Iterator[str]:
    """Markdown: a row for each number of instances of 8 GPUs, a column for each network."""
    networks = " | ".join(f"{n} Gbit/s" for n in NETWORKS)
    yield f"| {phase}, instances of 8x {gpu.name} | {networks} | faster from |"
    yield f"|---|{'---|' * (len(NETWORKS) + 1)}"
    yield f"| 1 | {Setup(gpu).text(phase)} |{' |' * len(NETWORKS)}"
    for count in INSTANCES:
        least = least_gbit_s(phase, gpu, count)
        cells = " | ".join(Setup(gpu, 8, count, n).text(phase) for n in NETWORKS)
        yield f"| {count} | {cells} | {'never' if least is None else f'{least:.0f} Gbit/s'} |"


def scale() -> Iterator[str]:
    """The tables of docs/scale.md, line by line."""
    yield from fewer_gpus()
    for phase, gpu in (("mid", H100), ("mid", B200), ("sft", H100), ("rl", H100)):
        yield ""
        yield from more_instances(phase, gpu)
