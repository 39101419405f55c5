"""The lines of every script, as each generation prints them, become steps, figures and scores."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanolan.trainers.adapter.output import (
    MOST_STEPS,
    Said,
    StepLine,
    loss_span,
    parts_of,
    read_part,
    score_name,
)


def read(text: str, said: Said | None = None) -> tuple[Said, list[StepLine]]:
    """What an output says, and its training steps."""
    said = said or Said()
    lines = [read_part(part, said) for line in text.split("\n") for part in parts_of(line)]
    return said, [line for line in lines if line]


SPEED = "lrm: 1.00 | dt: 250.00ms | tok/sec: 131,072 | mfu: 41.20"
# line -> (step, steps of the phase, some of its numbers)
STEPS = {
    f"step 00040 (25.00%) | loss: 1.234567 | {SPEED} | total time: 1.25m": (
        (40, 160),
        {"loss": 1.234567, "tok_per_s": 131072, "dt": 250, "mfu": 41.2, "lrm": 1},
    ),
    f"step 00040 (25.00%) | loss: 1.2 | {SPEED} | epoch: 1 | total time: 1.25m | eta: 3.8m": (
        (40, 160),
        {"epoch": 1, "eta": 3.8},
    ),
    f"step 00002 (0.00%) | loss: 11.09 | {SPEED}": ((2, 0), {"loss": 11.09}),
    "step 00004 (112.50%) | loss: 2.0 | lrm: -0.25": ((4, 4), {"lrm": -0.25}),
    "step 00004 (125.00%) | loss: 2.0 | lrm: -1.25": ((4, 4), {"lrm": -1.25}),
    f"step 00100/00589 (16.98%) | loss: 2.0 | {SPEED}": ((100, 589), {"loss": 2}),
    "Step 00003/00105 | Training loss: 1.5| lrm: 0.97| num_tokens: 12,345": (
        (3, 105),
        {"loss": 1.5, "lrm": 0.97, "tokens": 12345},
    ),
    "Step 3/467 | Example step 2 | Pass 0 | loss: -0.01 | Average reward: 0.25": (
        (3, 467),
        {"loss": -0.01, "reward": 0.25},
    ),
    "Step 3/467 | Average reward: 0.25 | Average sequence length: 131.50": (
        (3, 467),
        {"reward": 0.25, "answer_tokens": 131.5},
    ),
    # of a looped fork: a list, a name with a dash, a percentage, no space after the bar
    "step 00010 (10.00%) | loss: 2.5 | losses: [2.6, 2.5, 2.4] | exit-rate: 12.5%|loops: 4": (
        (10, 100),
        {"loss": 2.5, "exit-rate": 0.125, "loops": 4},
    ),
    "[rank0]: step 00040 (25.00%) | loss: 1.5 | tok/sec: 1,234,567": (
        (40, 160),
        {"tok_per_s": 1234567},
    ),
    "[default0]:Step 00003/00105 | Training loss: 1.5": ((3, 105), {"loss": 1.5}),
    "\x1b[32m\x1b[1mstep 00040\x1b[0m (25.00%) | loss: \x1b[31m1.5\x1b[0m": (
        (40, 160),
        {"loss": 1.5},
    ),
    "step 00040 (25.00%) | loss: 1.2e-05 | tok/sec: 99": ((40, 160), {"loss": 1.2e-5}),
    "step 00040 (25.00%) | loss: inf | mfu: nan": ((40, 160), {"loss": math.inf}),
    f"step 00007 (0.000001%) | loss: 1.0 | {SPEED}": ((7, 7 * 10**8), {}),
    "step 999999999 (0.000001%) | loss: 1.0": ((999999999, MOST_STEPS), {}),
    "step 00040 (25.00%) | loss: 1.5 | note: " + "x" * 100_000: ((40, 160), {"loss": 1.5}),
}


@pytest.mark.parametrize("line", STEPS, ids=lambda line: line[:70])
def test_a_training_line_is_a_step(line: str) -> None:
    (step, steps), numbers = STEPS[line]
    said, found = read(line)
    assert (found[0].step, said.steps) == (step, steps)
    assert numbers.items() <= found[0].numbers.items()
    assert "mfu" not in found[0].numbers or math.isfinite(found[0].numbers["mfu"])


def test_a_loss_that_is_no_number_is_a_step_and_counts_in_no_mean() -> None:
    said, found = read("step 1 | loss: nan\nstep 2 | loss: 3.0\nstep 3 | loss: -inf")
    assert len(found) == 3 and loss_span(said.losses) == {"loss_start": 3, "loss_end": 3}
    assert loss_span([math.nan]) == loss_span([]) == {}
    assert loss_span([4.0, 3.0, 2.0]) == {"loss_start": 4, "loss_end": 2}


# line -> figures of the model
MEASURED = {
    "Step 00400 | Validation bpb: 0.3712": {"val_bpb": 0.3712},
    "Step 00100 | Validation loss: 1.0123": {"val_loss": 1.0123},
    "Step 00200 | mmlu_acc: 0.312500, arc_easy_acc: 0.406250": {
        "mmlu_acc": 0.3125,
        "arc_easy_acc": 0.40625,
    },
    "Step 00400 | ChatCORE: 0.1234 | ChatCORE_cat: 0.2345": {
        "chatcore": 0.1234,
        "chatcore_cat": 0.2345,
    },
    "Step 60 | Pass@1: 0.0625, Pass@2: 0.1250, Pass@8: 0.3125": {
        "pass@1": 0.0625,
        "pass@2": 0.125,
        "pass@8": 0.3125,
    },
    "Step 00400 | Validation bpb: nan": {},
}


@pytest.mark.parametrize("line", MEASURED)
def test_a_validation_is_no_step(line: str) -> None:
    said, found = read(line)
    assert found == [] and said.measured == MEASURED[line]


ERASE = "\r\x1b[KRank 0 | 1/2 (50.00%)\r\x1b[KRank 0 | 3/4 (75.00%)"
# output of an evaluation -> scores
SCORES = {
    "ARC-Easy accuracy: 25.00%": {"arc_easy_acc": 0.25},
    f"{ERASE}\n{'=' * 40}\nFinal: 3/4 (75.00%)\nARC-Challenge accuracy: 75.00%": {
        "arc_challenge_acc": 0.75
    },
    # another rank begins the next task before rank 0 prints this
    "\r\x1b[KRank 1 | 0/1 (0.00%)GSM8K accuracy: 1.50%": {"gsm8k_acc": 0.015},
    "  HumanEval: 7.93%\n    MMLU: 31.00%": {"humaneval_acc": 0.0793, "mmlu_acc": 0.31},
    "  PTCORE-Chat: 12.00%": {"ptcore_chat_acc": 0.12},
    "ChatCORE metric: 0.1801": {"chatcore": 0.1801},
    "ChatCORE metric: -0.0312": {"chatcore": -0.0312},
    "[rank0]: SpellingBee accuracy: 100.00%": {"spellingbee_acc": 1.0},
    "\x1b[36mMMLU accuracy: 31.00%\x1b[0m": {"mmlu_acc": 0.31},
    "MMLU accuracy: nan%\nChatCORE metric: nan": {},
    "The accuracy: 5% of it\nFinal: 3/10 (30.00%)\nMMLU accuracy: 31": {},
}


@pytest.mark.parametrize("text", SCORES, ids=lambda text: repr(text)[:60])
def test_an_evaluation_says_its_scores(text: str) -> None:
    said, found = read(text)
    assert (said.scores, found) == (SCORES[text], [])


def test_a_task_has_the_name_that_our_own_evaluation_gives_it() -> None:
    names = ("ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval")
    ours = ["arc_easy_acc", "arc_challenge_acc", "mmlu_acc", "gsm8k_acc", "humaneval_acc"]
    assert [score_name(n) for n in names] == ours


SHAPES = st.sampled_from(
    ["step 1 | ", "Step 3/4 (5%) | ", "loss: ", "accuracy: ", "1" * 50, "\r", "[rank0]:", "\x1b["]
    + ["Traceback (most recent call last):", "ValueError: x", "%", "aaaa ", "nan", "1,", ":", "e9"]
)


@given(st.lists(SHAPES | st.text(max_size=20), max_size=30))
@settings(max_examples=300, deadline=None)
def test_no_text_is_too_strange(pieces: list[str]) -> None:
    said, found = read("".join(pieces))
    assert all(0 <= line.step <= MOST_STEPS for line in found)
    assert 0 <= said.steps <= MOST_STEPS and len(said.error) <= 300


# Such that a search which goes back would take hours
LONG = {
    "a name": "step 1 | " + "a" * 1_000_000,
    "digits": "MMLU accuracy: " + "1" * 1_000_000,
    "step": "step " + "1" * 1_000_000 + " | loss: 1",
    "colons": "step 1 | " + "a:" * 500_000,
    "spaces": "step 1 | a:" + " " * 1_000_000,
    "an error": "Error" * 200_000,
    "dots": "a." * 500_000 + "Error",
    "escapes": "\x1b[" * 500_000,
    "digits of a colour": "\x1b[" + "1" * 1_000_000,
    "returns": "\ra" * 500_000,
    "ranks": "[rank0]:" * 100_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_no_line_takes_long(text: str) -> None:
    began = time.process_time()
    said = Said()
    said.failures.read("", "Traceback (most recent call last):")
    read(text, said)
    assert time.process_time() - began < 0.5
