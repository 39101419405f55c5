"""Each probe on one rank of a CPU at a toy size, and what it says of a rank that is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from nanolan.errors import RunFailed
from nanolan.gpu_check.machine import SIZES, SMALL
from nanolan.model.checkpoint import load
from nanolan.model.generation.engine import Completion
from nanolan.model.tokenizer import load_tokenizer
from nanolan.train.data.rollouts import Question, Rollout
from nanolan.train.probe import attention, bandwidth, decode, inputs, memory, rl_step
from nanolan.train.probe.__main__ import PARTS, main
from nanolan.train.processes import Processes

TOY = SIZES["toy"]
ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("vocab_size", [520, 2048])
def test_model_and_tokenizer_belong_together_and_are_the_same_each_time(
    tmp_path: Path, vocab_size: int
) -> None:
    size = TOY["model"] | {"vocab_size": vocab_size}
    inputs.write(tmp_path / "a", size)
    inputs.write(tmp_path / "b", size)
    a, b = (load(tmp_path / name / "model") for name in "ab")
    assert all(map(torch.equal, a.model.parameters(), b.model.parameters()))
    tokenizer = load_tokenizer(tmp_path / "a/tokenizer")
    assert tokenizer.vocab_size == a.model.config.vocab_size == vocab_size
    text = "Ada has 3 apples, né?"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_vocabulary_of_nanochats_size_has_that_many_tokens() -> None:
    assert inputs.tokenizer_of(65_536).vocab_size == 65_536


@dataclass(frozen=True)
class Other(Processes):
    """Rank 0 of two; the other one's numbers differ by `more`."""

    more: float = 0.0

    def sum_(self, tensor: torch.Tensor) -> None:
        tensor *= 2

    def totals(self, *values: float) -> list[float]:
        return [v + self.more for v in values]

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        return torch.cat((part, part))


def test_two_ranks_have_a_speed_and_one_with_other_bits_is_told() -> None:
    two = Other(0, 2, torch.device("cpu"))
    found = bandwidth.measure({"elements": 1000}, two)
    assert found["sum_gb_s"] >= 0 and found["mb"] == 0.0
    with pytest.raises(RunFailed, match="other bits on"):
        bandwidth.check_bits(torch.ones(4), Other(0, 2, torch.device("cpu"), more=1.0))


def test_an_attention_that_does_not_serve_here_says_why_and_the_others_are_measured() -> None:
    found = attention.measure(TOY["attention"], ALONE)
    assert found["math"]["ms"] > 0 and found["math"]["error"] < 0.05
    assert found["math"]["decode_first_ms"] > 0
    assert found["cudnn"]["none"].startswith("RuntimeError")


def test_decoding_has_a_time_for_each_number_of_rows() -> None:
    found = decode.measure(TOY["decode"] | {"size": TOY["model"], "small": TOY["model"]}, ALONE)
    assert set(found["rows"]) == {"2", "4"} and found["rows"]["4"]["tok_per_s"] > 0
    assert found["greedy_same"] == 1.0


def test_a_step_of_rl_is_measured_by_its_parts_and_every_question_teaches() -> None:
    found = rl_step.measure(TOY["rl"] | {"size": TOY["model"]}, ALONE)
    assert found["tokens"] > 0 and min(found[name] for name in rl_step.PARTS) > 0
    tries = [Completion([1], [1], True)] * 4
    assert rl_step.taught(Rollout(Question([1], "1"), tries, [0.0] * 4)).teaches


def test_memory_that_runs_out_on_the_first_rank_halves_its_rows() -> None:
    found = memory.measure({"size": TOY["model"], "rows": 4}, ALONE)
    assert (found["rows"], found["after"]) == (4, 2)
    with pytest.raises(RunFailed, match="out of memory at 1 row"):
        memory.measure({"size": TOY["model"], "rows": 1}, ALONE)


@pytest.mark.parametrize(
    "argv", [[], ["sum", "a", "b"], ["collective", "/none/setup.json", "/none/result.json"]]
)
def test_a_wrong_call_is_one_line_and_exit_1(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 1
    said = "".join(capsys.readouterr())
    assert len(said.splitlines()) == 1 and ("usage" in said or "nanolan.train: " in said)


def test_every_probe_of_the_table_is_a_module_with_measure() -> None:
    known: dict[str, Any] = {
        m.__name__.rsplit(".", 1)[1]: m for m in (attention, bandwidth, decode, memory, rl_step)
    }
    assert set(PARTS) - {"collective"} == set(known)
    assert SMALL["n_layer"] == 4
