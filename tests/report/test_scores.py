"""Scores: what changed between phases, and what was published beside it."""

from __future__ import annotations

import pytest

from nanolan.report.scores import (
    PUBLISHED,
    TASKS,
    chat_core,
    is_d20,
    passes,
    published_range,
    score_lines,
)
from nanolan.run.record import PhaseReport

MEASURED = {"arc_easy_acc": 0.40, "gsm8k_acc": 0.05, "chatcore": 0.125}


def judged(**measured: float) -> PhaseReport:
    return PhaseReport("proven", measured=measured)


def test_a_line_a_task_with_the_change_since_the_phase_before_and_chatcore_last() -> None:
    lines = score_lines(
        {
            "mid": judged(arc_easy_acc=0.40, chatcore=0.1),
            "sft": judged(arc_easy_acc=0.45, mmlu_acc=0.3, chatcore=0.2),
        }
    )
    assert [line.name for line in lines] == ["ARC-Easy", "MMLU", "ChatCORE"]
    assert lines[0].scores == (0.40, 0.45) and lines[0].changes == (None, pytest.approx(0.05))
    assert lines[1].scores == (None, 0.3) and lines[1].changes == (None, None)


def test_without_an_evaluation_there_are_no_lines() -> None:
    assert score_lines({"mid": judged(val_bpb=0.4)}) == [] and score_lines({}) == []


def test_published_scores_are_the_lowest_and_the_highest_of_all_reports() -> None:
    assert published_range("mid", "arc_easy_acc", MEASURED) == (0.3140, 0.4478)
    assert published_range("rl", "gsm8k_acc", MEASURED) == (0.0751, 0.0758)
    assert (
        published_range("rl", "mmlu_acc", MEASURED) is None
        and published_range("other", "mmlu_acc", MEASURED) is None
    )


def test_published_chatcore_is_over_the_same_tasks_as_ours() -> None:
    low, high = published_range("mid", "chatcore", MEASURED) or (0, 0)
    of = [((row[0] or 0) - 0.25) / 0.75 / 2 + (row[3] or 0) / 2 for row in PUBLISHED["mid"]]
    assert (low, high) == (pytest.approx(min(of)), pytest.approx(max(of)))
    spelled = published_range("mid", "chatcore", MEASURED | {"spellingbee_acc": 0.9})
    assert spelled and spelled[0] > high, "only the reports that have SpellingBee count then"


@pytest.mark.parametrize(
    "row, core",
    [(PUBLISHED["mid"][1], 0.2703), (PUBLISHED["sft"][1], 0.2793), (PUBLISHED["mid"][2], 0.2176)],
)
def test_chatcore_of_a_published_run_is_what_it_published(
    row: tuple[float | None, ...], core: float
) -> None:
    assert chat_core(dict(zip(TASKS, row, strict=True))) == pytest.approx(core, abs=1e-4)


def test_the_tasks_are_those_of_the_evaluation() -> None:
    from nanolan.train.evaluation.tasks import TASKS as EVALUATED

    assert {t.key: (t.name, t.chance) for t in EVALUATED} == TASKS


@pytest.mark.parametrize(
    "parameters, same",
    [(None, None), (560_988_160, True), (156_672, False), (1_880_000_000, False)],
)
def test_only_a_d20_compares_with_a_d20(parameters: int | None, same: bool | None) -> None:
    assert is_d20(parameters) is same


def test_passes_are_by_k_with_what_is_missing_unknown() -> None:
    assert passes(
        judged(pass_at_10_end=0.5, pass_at_2_start=0.1, pass_at_2_end=0.2, pass_at_x=0.1)
    ) == [(2, 0.1, 0.2), (10, None, 0.5)]
