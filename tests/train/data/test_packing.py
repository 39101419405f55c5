"""Rows and the token store: whole conversations, right targets, the same for any number of ranks."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from nanolan.errors import BadAnswer
from nanolan.model.conversation import render
from nanolan.model.gpt import IGNORE
from nanolan.model.tokenizer import Tokenizer, load_tokenizer
from nanolan.train.data.mixtures import IDENTITY, TRAINING, Part, open_mixture
from nanolan.train.data.packing import Rows, make_rows
from nanolan.train.processes import Processes
from nanolan.train.recipe import Recipe
from tests.support.tiny_world import write_parquet

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return load_tokenizer(tiny / "tokenizer")


def rows_for(
    data: Path,
    parts: tuple[Part, ...],
    tokenizer: Tokenizer,
    scratch: Path,
    T: int = 128,
    everything: bool = False,
    world: Processes = ALONE,
) -> Rows:
    return make_rows(
        parts, data, tokenizer, Recipe(sequence_len=T, train_all_tokens=everything), world, scratch
    )


def rendered(
    data: Path, parts: tuple[Part, ...], tokenizer: Tokenizer
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    out = []
    for source in open_mixture(parts, data, 42, None):
        for block in source.blocks:
            for _, c in source.take(block):
                ids, mask = render(c, tokenizer, 10_000)
                out += [(tuple(ids), tuple(mask))] * source.part.times
    return sorted(out)


@pytest.mark.parametrize("phase", ["mid", "sft"])
def test_every_conversation_that_fits_is_in_exactly_one_row_uncut(
    phase: str, tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rows = rows_for(
        tiny / "data", TRAINING[phase], tokenizer, tmp_path / "s", 256, everything=phase == "mid"
    )
    found = []
    for row in rows.packed:
        assert sum(len(rows.store[c]) for c in row) <= 257
        for c in row:
            signed = rows.store[c].tolist()
            found.append(
                (tuple(t if t >= 0 else ~t for t in signed), tuple(int(t >= 0) for t in signed))
            )
    assert sorted(found) == rendered(tiny / "data", TRAINING[phase], tokenizer)


def test_sft_trains_what_the_assistant_says_and_nothing_else(
    tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    parts = (Part("gsm8k"),)
    rows = rows_for(tiny / "data", parts, tokenizer, tmp_path / "s")
    ids, targets, _ = rows.batch(range(len(rows)))
    assert ids.shape == targets.shape == (len(rows), 128)
    assert int((targets >= 0).sum()) == sum(
        sum(mask) for _, mask in rendered(tiny / "data", parts, tokenizer)
    )
    assert (targets >= 0).any(dim=1).all()
    known = targets[:, :-1] != IGNORE
    assert torch.equal(targets[:, :-1][known], ids[:, 1:][known])  # a target is the next id


def test_mid_trains_every_token_but_padding(
    tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rows = rows_for(tiny / "data", (Part("gsm8k"),), tokenizer, tmp_path / "s", everything=True)
    _, targets, _ = rows.batch(range(len(rows)))
    tokens = sum(len(rows.store[c]) for row in rows.packed for c in row)
    assert int((targets >= 0).sum()) == tokens - len(rows)  # the first of a row is no target


def test_rows_that_fill_up_a_batch_are_not_trained(
    tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rows = rows_for(tiny / "data", (Part("gsm8k"),), tokenizer, tmp_path / "s")
    ids, targets, _ = rows.batch([0], 3)
    assert ids.shape == (3, 128)
    assert (targets[0] >= 0).any()
    assert (targets[1:] == IGNORE).all()
    assert (ids[1:] == tokenizer.bos).all()


def test_rows_go_round_when_there_are_fewer_than_asked_for(
    tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rows = rows_for(tiny / "data", (Part("gsm8k"),), tokenizer, tmp_path / "s")
    again, first = rows.batch([len(rows)]), rows.batch([0])
    assert torch.equal(again[0], first[0])
    assert torch.equal(again[1], first[1])


def test_a_conversation_longer_than_a_row_is_cut_to_it(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_parquet(tmp_path, "gsm8k", "train", [{"question": "q", "answer": "word " * 500}])
    rows = rows_for(tmp_path, (Part("gsm8k"),), tokenizer, tmp_path / "s")
    assert [len(rows.store[c]) for row in rows.packed for c in row] == [129]


def test_a_question_that_fills_its_row_is_left_out_of_sft(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(
        tmp_path,
        "gsm8k",
        "train",
        [{"question": "word " * 500, "answer": "a"}, {"question": "q", "answer": "a"}],
    )
    rows = rows_for(tmp_path, (Part("gsm8k"),), tokenizer, tmp_path / "s")
    assert rows.n_conversations == 1
    assert "1 conversations have no answer within 128 tokens" in capsys.readouterr().out


def test_nothing_to_train_is_an_error(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_parquet(tmp_path, "gsm8k", "train", [{"question": "word " * 500, "answer": "a"}])
    with pytest.raises(BadAnswer, match="no conversation to train"):
        rows_for(tmp_path, (Part("gsm8k"),), tokenizer, tmp_path / "s")


def test_missing_identity_is_a_warning(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(tmp_path, "gsm8k", "train", [{"question": "q", "answer": "a"}])
    rows = rows_for(tmp_path, (Part("gsm8k"), Part(IDENTITY)), tokenizer, tmp_path / "s")
    assert rows.n_conversations == 1
    assert "warning: no identity file" in capsys.readouterr().err


def test_the_scratch_files_are_gone_and_the_rows_still_readable(
    tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rows = rows_for(tiny / "data", (Part("gsm8k"),), tokenizer, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    rows.batch(range(len(rows)))


@dataclass(frozen=True)
class Threaded(Processes):
    """Ranks as threads of this process that really wait for each other."""

    barrier: threading.Barrier | None = None

    def meet(self) -> None:
        assert self.barrier
        self.barrier.wait(30)


def test_rows_are_the_same_for_one_and_for_three_ranks(
    tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    alone = rows_for(tiny / "data", TRAINING["sft"], tokenizer, tmp_path / "s")
    barrier, made = threading.Barrier(3), {}

    def run(rank: int) -> None:
        world = Threaded(rank, 3, torch.device("cpu"), barrier=barrier)
        made[rank] = rows_for(
            tiny / "data", TRAINING["sft"], tokenizer, tmp_path / "s3", world=world
        )

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    for rank in range(3):
        assert made[rank].packed == alone.packed
        assert torch.equal(
            made[rank].batch(range(len(alone)))[0], alone.batch(range(len(alone)))[0]
        )
