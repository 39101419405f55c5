"""The bench against a checkout: its own scripts do the work that ours does, it is counted right, and what cannot run is said."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from nanolan.errors import UsageProblem
from nanolan.model.conversation import conversation, render_prompt
from nanolan.model.tokenizer import Tokenizer
from tests.bench import against, guest
from tests.bench.__main__ import bench
from tests.bench.against import chat, checkout_at, exam, missing, options
from tests.bench.bench_shape import TINY
from tests.bench.cases import Tally
from tests.bench.trainer import GuestCase, Step, evened, main, ratios, run_against
from tests.bench.workload import SHAPES, conversations, made_tokenizer, made_word, words_of
from tests.support.forks import REPO, copy_fork

FORKS = REPO / "tests" / "forks"
SHAPE = SHAPES["cpu-tiny"]


def words(count: int) -> str:
    return "".join(made_word(n % words_of(SHAPE)) for n in range(max(1, count)))


def rendered(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> tuple[int, int]:
    """(tokens, untrained ones) of a conversation of two messages."""
    asked, answered = (len(tokenizer.encode(m["content"])) for m in messages)
    return asked + answered + 5, asked + 4


# ---- the same work


def test_a_conversation_has_the_tokens_of_ours() -> None:
    tokenizer = made_tokenizer(SHAPE)
    for ours in conversations(SHAPE)[:50]:
        untrained = int((ours < 0).sum())
        made = chat(len(ours), untrained, words)["messages"]
        assert rendered(tokenizer, made) == (len(ours), max(untrained, 5))


def test_a_question_has_the_tokens_of_ours() -> None:
    tokenizer = made_tokenizer(SHAPE)
    for length in (8, 80, 128):
        asked = exam(length, words)["question"]
        assert len(render_prompt(conversation(asked, ""), tokenizer, 2048)) == length


def test_every_made_up_word_is_one_token() -> None:
    tokenizer = made_tokenizer(SHAPE)
    every = "".join(made_word(n) for n in range(words_of(SHAPE)))
    assert tokenizer.encode(every) == list(range(256, 256 + words_of(SHAPE)))


@pytest.mark.parametrize("phase", ["mid", "sft", "rl"])
def test_the_checkout_gets_the_shapes_of_the_bench(phase: str, tmp_path: Path) -> None:
    checkout = checkout_at(FORKS / "2025", fp32=True)
    made: list[str] = []

    def make_model(*args: object) -> None:
        made.append(phase)
        folder = tmp_path / "model"
        folder.mkdir()
        for name in ("model_000010.pt", "meta_000010.json"):
            (folder / name).touch()

    job = json.loads(against.lay_out_phase(checkout, TINY, phase, tmp_path, make_model).read_text())
    given = dict(word.removeprefix("--").split("=") for word in job["arguments"])
    wanted = options(TINY, phase)
    assert made == [phase] and given.items() <= {k: str(v) for k, v in wanted.items()}.items()
    sizes = {
        "mid": {"max_seq_len": "64", "total_batch_size": "512", "device_batch_size": "4"},
        "sft": {"target_examples_per_step": "32", "device_batch_size": "4"},
        "rl": {"examples_per_step": "4", "num_samples": "16", "max_new_tokens": "6"},
    }
    assert sizes[phase].items() <= given.items()
    assert (tmp_path / "base" / checkout.row.phases[phase].input_dir / "d1").is_dir()


# ---- what is counted


def test_the_tokens_of_a_script_that_reads_ahead_are_spread_over_its_steps() -> None:
    steps = [Step(Tally(n, n, 0, g), 1.0, 1.0, 1.0, None) for n, g in ((300, 9), (0, 0), (0, 3))]
    assert [(s.tally.real, s.tally.generated) for s in evened(steps)] == [(100, 4)] * 3


def test_the_ratio_names_the_checkout() -> None:
    step = Step(Tally(9, 9, 9), 1.0, 2.0, 0.5, None)
    text = ratios("mid", [replace(step, wall_s=0.5)], [step], "my-nanochat")
    assert text.startswith("mid ours / my-nanochat: 2.00x real tokens/s (1.00x by CPU time)")


def test_what_the_script_renders_and_generates_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine:
        def render_conversation(self, c: object) -> tuple[list[int], list[int]]:
            return [1, 2, 3, 4], [0, 0, 1, 1]

    class Engine:
        def generate_batch(self, tokens: list[int], **how: object) -> tuple[list[list[int]], None]:
            return [[*tokens, 5, 6], [*tokens, 7]], None

    for name, parts in (
        ("nanochat.tokenizer", {"T": Mine}),
        ("nanochat.engine", {"Engine": Engine}),
    ):
        module = types.ModuleType(name)
        vars(module).update(parts)
        monkeypatch.setitem(sys.modules, name, module)
    counts = guest.Counts()
    guest.count_tokens(counts)
    Mine().render_conversation({})
    Engine().generate_batch([1, 2, 3], seed=1)
    assert vars(counts) == {"rendered": 3, "trained": 2, "generated": 3}
    counts.clear()
    assert not any(vars(counts).values())


# ---- what stands in for what is not here


def test_the_stand_in_for_data_sets_shuffles_and_maps(tmp_path: Path) -> None:
    against.write_rows(TINY, "rl", tmp_path)
    rows = guest.read_split(tmp_path, "openai/gsm8k", "main", "train")
    assert len(rows) == TINY.questions * (TINY.rl_steps + against.MORE_STEPS)
    mixed = rows.shuffle(seed=42)
    assert sorted(r["question"] for r in mixed) == sorted(r["question"] for r in rows)
    assert [*mixed] == [*rows.shuffle(seed=42)]
    inner = guest.read_split(tmp_path, "cais/mmlu", "auxiliary_train", "train")
    assert "question" in inner.map(lambda row: row["train"], remove_columns=["train"])[0]
    assert len(guest.read_split(tmp_path, "HuggingFaceTB/smol-smoltalk", None, "train")) >= 10_000
    with pytest.raises(FileNotFoundError, match="no data for me/own  train"):
        guest.read_split(tmp_path, "me/own", None, "train")


SCHULZ = "import torch\ndef zeropower_via_newtonschulz5(G, steps):\n    return G.bfloat16().dtype\n"


def test_newton_schulz_is_computed_in_fp32_where_the_checkout_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_muon.py").write_text(SCHULZ)
    assert guest.newton_schulz_in_fp32(("own_muon", "zeropower_via_newtonschulz5"))
    muon = sys.modules.pop("own_muon")
    assert muon.zeropower_via_newtonschulz5(torch.ones(2, 2), 5) == torch.float32
    assert not guest.newton_schulz_in_fp32(("own_muon", "another"))
    sys.modules.pop("own_muon")
    assert not guest.newton_schulz_in_fp32(("no_such_muon", "x"))


# ---- what is refused


def test_a_phase_that_the_checkout_lacks_is_said_and_the_others_run() -> None:
    checkout = checkout_at(FORKS / "2026", fp32=True)
    assert "removed it" in missing(checkout, "mid") and missing(checkout, "sft") == ""
    assert [*run_against(checkout, TINY, "mid")] == [f"mid 2026: {missing(checkout, 'mid')}"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["cpu-tiny", "--against", "/nowhere"], "--against /nowhere: there is no such folder"),
        (["cpu-tiny", "--against", str(FORKS)], "no nanochat checkout"),
        (["d20", "--against", str(FORKS / "2025")], "--against compares on the CPU"),
    ],
)
def test_what_is_no_checkout_is_refused(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["help", "--against", "x"], "--against goes with train"),
        (["against=x"], "--against goes with train"),
        (["train", "--as-is"], "--as-is goes with --against"),
    ],
)
def test_against_is_for_the_trainer_alone(words: list[str], says: str) -> None:
    done = CliRunner().invoke(bench, words)
    assert done.exit_code == 2 and says in done.output


# ---- the whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("generation", "phase"),
    [("2025", "mid"), ("2025", "sft"), ("2025", "rl"), ("2026", "sft"), ("2026", "rl")],
)
def test_a_checkouts_own_script_makes_steps_that_are_counted(generation: str, phase: str) -> None:
    with GuestCase(checkout_at(FORKS / generation, fp32=True), TINY, phase) as case:
        steps = [case.step() for _ in range(4)]
        folder = Path(case.folder.name)
    assert case.child.poll() is not None and not folder.exists()
    last = steps[-1]
    assert min(last.wall_s, last.cpu_s, last.peak_gib) > 0
    if phase == "rl":
        most = TINY.questions * TINY.samples * TINY.new_tokens
        assert most / 2 < last.tally.generated <= most
    elif phase == "mid":
        assert last.tally.real == TINY.mid_rows * TINY.config.sequence_len
    elif generation == "2025":
        mean = sum(len(c) for c in conversations(TINY)) / len(conversations(TINY))
        assert 32 * mean / 2 < last.tally.real < 32 * mean * 2


@pytest.mark.slow
def test_a_checkout_that_fails_says_its_own_error(tmp_path: Path) -> None:
    root = copy_fork("2025", tmp_path / "broken")
    script = root / "scripts/mid_train.py"
    script.write_text(
        script.read_text().replace("def main():", "def main():\n    raise OSError(7)")
    )
    with (
        GuestCase(checkout_at(root, fp32=True), TINY, "mid") as case,
        pytest.raises(UsageProblem, match="mid broken: OSError: 7"),
    ):
        case.step()
    (root / "nanochat/gpt.py").write_text("raise ImportError('no such thing')")
    with pytest.raises(UsageProblem, match=r"cannot make a model .*no such thing"):
        GuestCase(checkout_at(root, fp32=True), TINY, "mid")
