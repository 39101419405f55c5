"""What a launch makes of `trainer=`: phases, arguments, the batch rule, and what is said before it rents."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from nanolan.errors import NanolanError, UsageProblem
from nanolan.launch.make_plan import make_plan
from nanolan.launch.preflight import Findings
from nanolan.plan import read_plan
from nanolan.settings.load import load_settings
from nanolan.settings.settings import Settings
from nanolan.trainers.choose import Chosen, with_trainer
from tests.support.checkouts import FILES_2025, FILES_2026, TOKEN, phase, start, toml, write
from tests.support.forks import REPO
from tests.support.launch_fixtures import B200, CODE

CUSTOM = FILES_2026 | {
    "pyproject.toml": toml(
        phase("warm", 'command = "bash train.sh --lr=1\\n  && echo done"')
        + '[tool.nanolan.phases.agent_rl]\ninput = "b_checkpoints"\noutput = "c_checkpoints"\n'
        'module = "scripts.chat_sft"\narguments = ["--run=mine", "--device-batch-size", "16"]\n'
    )
}


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("forks")
    made = {"2025": FILES_2025, "2026": FILES_2026, "custom": CUSTOM}
    return {name: start(folder / name, files) for name, files in made.items()}


def choose(
    root: Path, options: str = "", phase: str = "sft", **flags: str
) -> tuple[Settings, Chosen]:
    given = {"trainer": str(root), "phase": phase} | flags
    s = load_settings(given | ({"train_options": options} if options else {}), {})
    s, chosen = with_trainer(s, Path("/nowhere"))
    assert chosen
    return s, chosen


def arguments(chosen: Chosen, phase: str = "sft") -> list[str]:
    return list(chosen.fork.phases[phase].arguments)


def refused(root: Path, *words: str, **more: str) -> str:
    with pytest.raises(NanolanError) as e:
        choose(root, *words, **more)
    assert "nanolan-fork-" not in str(e.value), "the name of a temporary folder"
    return str(e.value)


# ---- phases
PHASES = [
    ("2025", "all", "mid+sft+rl"),
    ("2025", "mid+sft", "mid+sft"),
    ("2025", "rl", "rl"),
    ("2026", "all", "sft+rl"),
    ("2026", "sft", "sft"),
    ("custom", "all", "warm+agent_rl"),
    ("custom", "agent_rl", "agent_rl"),
]
WRONG_PHASES = [
    ("2026", "mid", "its sft starts from base. Use phase=sft"),
    ("2026", "mid+sft", "its sft starts from base. Use phase=sft"),
    ("2025", "base", "its phases are mid, sft, rl"),
    ("2025", "agent_rl", "its phases are mid, sft, rl"),
    ("2025", "sft+mid", "run in this order, each once: mid, sft, rl"),
    ("2025", "sft+sft", "run in this order, each once: mid, sft, rl"),
    ("2025", "mid+rl", "rl starts from chatsft_checkpoints, but mid before it writes mid_checkpoints"),
    ("2025", "all+sft", "has no phase all"),
    ("custom", "sft", "its phases are warm, agent_rl"),
]  # fmt: skip


@pytest.mark.parametrize("fork, given, names", PHASES)
def test_the_phases_are_the_trainers(
    forks: dict[str, Path], fork: str, given: str, names: str
) -> None:
    s, chosen = choose(forks[fork], phase=given)
    assert s.phase == names and s.phases == tuple(names.split("+"))
    assert s.input_folder == f"{chosen.fork.phases[s.phases[0]].input_dir}/d20"


@pytest.mark.parametrize("fork, given, words", WRONG_PHASES)
def test_a_phase_that_cannot_run_is_refused_with_the_reason(
    forks: dict[str, Path], fork: str, given: str, words: str
) -> None:
    assert words in refused(forks[fork], phase=given)


def test_the_miniature_forks_can_be_launched_with_all_their_phases() -> None:
    for name, count in (("2025", 3), ("2026", 2)):
        s, chosen = choose(REPO / "tests/forks" / name, phase="all")
        assert len(s.phases) == count and chosen.fork.row == f"nanochat-{name}"


# ---- options: (fork, phase, the user's, an argument that comes of it)
OPTIONS = [
    ("2026", "sft", "init-lr-frac=0.5", "--init-lr-frac=0.5"),
    ("2026", "sft", "init_lr_frac=0.5", "--init-lr-frac=0.5"),
    ("2026", "sft", "train.init-lr-frac=.5", "--init-lr-frac=0.5"),
    ("2026", "sft", "sft.init-lr-frac=1", "--init-lr-frac=1.0"),
    ("2026", "sft", "compile=false", "--no-compile"),
    ("2026", "sft", "run='a b=\"c\"'", '--run=a b="c"'),
    ("2026", "sft", "run=", "--run="),
    ("2026", "sft", "run=²", "--run=²"),
    ("2026", "sft", "run=--5", "--run=--5"),
    ("2026", "sft", f"run={'9' * 5000}", f"--run={'9' * 5000}"),
    ("2026", "sft", "load-optimizer=1", "--load-optimizer=1"),
    ("2026", "sft", "device-batch-size=8 sft.device-batch-size=4", "--device-batch-size=4"),
    ("2025", "sft", "init-lr-frac=0.5", "--init_lr_frac=0.5"),
    ("2025", "sft", "init-lr-frac=1", "--init_lr_frac=1.0"),
    ("2025", "sft", "source=base", "--source=base"),
    ("2025", "mid", "run=123", "--run='123'"),
    ("custom", "agent_rl", "init-lr-frac=0.5", "--init-lr-frac=0.5"),
]
WRONG_OPTIONS = [
    ("2026", "sft", "int-lr-frac=1", "did you mean init-lr-frac?"),
    ("2025", "sft", "int-lr-frac=1", "did you mean init_lr_frac?"),
    ("2026", "sft", "zzz=1", "unknown option zzz of scripts/chat_sft.py"),
    ("2026", "sft", "device-batch-size=x", "takes a whole number, not 'x'"),
    ("2026", "sft", "device-batch-size=²", "takes a whole number"),
    ("2026", "sft", "device-batch-size=", "takes a whole number"),
    ("2026", "sft", "compile=maybe", "takes true or false"),
    ("2025", "sft", "source=a=b", "without '='"),
    ("2026", "sft", "rl.run=x", "rl is not among the phases of this run"),
    ("2026", "sft", "stf.run=x", "stf is not among the phases of this run"),
    ("2026", "all", "init-lr-frac=1", "rl has no such option. For sft alone: train.sft.init_lr_frac="),
    ("2026", "all", "rl.init-lr-frac=1", "unknown option init_lr_frac of scripts/chat_rl.py"),
    ("custom", "warm", "lr=1", "a command has no options; write them into the command"),
    ("custom", "all", "warm.lr=1", "a command has no options"),
    ("custom", "all", "init-lr-frac=1", "warm has no such option. For agent_rl alone"),
    ("2026", "sft", f"run={TOKEN}", "train.NAME=VALUE, line"),
]  # fmt: skip


@pytest.mark.parametrize("fork, phase, given, argument", OPTIONS, ids=lambda v: v[:40])
def test_an_option_of_the_user_reaches_its_phase(
    forks: dict[str, Path], fork: str, phase: str, given: str, argument: str
) -> None:
    found = arguments(choose(forks[fork], given, phase)[1], phase)
    flag = argument.partition("=")[0]
    assert [a for a in found if a.partition("=")[0] == flag] == [argument]


@pytest.mark.parametrize("fork, phase, given, words", WRONG_OPTIONS, ids=lambda v: v[:40])
def test_a_wrong_option_is_refused(
    forks: dict[str, Path], fork: str, phase: str, given: str, words: str
) -> None:
    said = refused(forks[fork], given, phase=phase)
    assert words in said and TOKEN not in said


def test_an_option_of_one_phase_reaches_only_that_phase(forks: dict[str, Path]) -> None:
    _, chosen = choose(forks["2025"], "mid.init-lr-frac=0.5 device-batch-size=2", "mid+sft")
    mid, sft = arguments(chosen, "mid"), arguments(chosen, "sft")
    assert "--init_lr_frac=0.5" in mid and not any("init_lr_frac" in a for a in sft)
    assert "--device_batch_size=2" in mid and "--device_batch_size=2" in sft
    assert arguments(chosen, "rl") == [], "a phase that does not run"


def test_options_without_a_checkout_are_refused() -> None:
    s = load_settings({"train_options": "a=1"}, {})
    with pytest.raises(UsageProblem, match="is for a checkout of yours: give trainer="):
        with_trainer(s, Path("/nowhere"))


def test_nanolans_own_trainer_needs_no_checkout() -> None:
    s = load_settings({}, {})
    assert with_trainer(s, Path("/nowhere")) == (s, None)


# ---- what nanolan sets
def test_a_run_without_a_wandb_key_is_a_dummy_and_no_optimizer_is_loaded(
    forks: dict[str, Path],
) -> None:
    assert arguments(choose(forks["2026"])[1]) == ["--run=dummy", "--load-optimizer=0"]
    with_key = choose(forks["2026"], wandb_api_key="wk" + "0123456789" * 3, run_name="mine")[1]
    assert arguments(with_key) == ["--run=mine", "--load-optimizer=0"]
    assert arguments(choose(forks["2025"])[1]) == ["--run=dummy"]


def test_a_declared_argument_wins_over_nanolan_and_the_user_over_it(forks: dict[str, Path]) -> None:
    found = arguments(choose(forks["custom"], phase="agent_rl")[1], "agent_rl")
    assert found == ["--run=mine", "--device-batch-size", "16", "--load-optimizer=0"]
    _, chosen = choose(forks["custom"], phase="agent_rl", batch="8")
    assert arguments(chosen, "agent_rl")[-1] == "--device-batch-size=8"
    assert chosen.values["agent_rl"]["device_batch_size"] == 8


def test_an_option_that_the_script_requires_is_asked_for(tmp_path: Path) -> None:
    line = '\nparser.add_argument("--data-path", required=True)\n'
    files = FILES_2026 | {"scripts/chat_sft.py": f"{FILES_2026['scripts/chat_sft.py']}{line}"}
    root = start(tmp_path / "fork", files)
    assert "requires --data-path: give train.data-path=" in refused(root)
    assert "--data-path=x" in arguments(choose(root, "data-path=x")[1])


def test_a_script_that_the_pinned_python_cannot_parse_is_refused(tmp_path: Path) -> None:
    files = FILES_2026 | {"scripts/chat_sft.py": "type X = int\n", ".python-version": "3.10\n"}
    assert "scripts/chat_sft.py" in refused(start(tmp_path / "fork", files))


@pytest.mark.parametrize(
    "source, words",
    [
        ('{path = "../lib", editable = true}', "takes lib from '../lib', which is not sent"),
        ('{path = "/opt/lib"}', "which is not sent"),
        ('{path = "untracked"}', "which is not sent"),
        ('[{path = "lib"}, {path = "../lib", marker = "x"}]', "which is not sent"),
        ('{path = "' + "x" * 5000 + '"}', "which is not sent"),
        ('{path = "lib"}', ""),
        ('{git = "https://github.com/a/lib"}', ""),
        ('"nonsense"', ""),
        ("{path = 3}", ""),
    ],
    ids=lambda v: v[:30],
)
def test_a_package_that_uv_takes_from_outside_is_refused(
    tmp_path: Path, source: str, words: str
) -> None:
    """uv sync would fail on the instance, after it was rented."""
    more = {"pyproject.toml": f"[tool.uv.sources]\nlib = {source}\n", "lib/setup.py": ""}
    root = start(tmp_path / "fork", FILES_2026 | more)
    write(tmp_path, {"lib/setup.py": "", "fork/untracked/setup.py": ""})
    if words:
        assert words in refused(root)
    else:
        assert choose(root)


# ---- the batch rule
@pytest.mark.parametrize(
    "fork, phase, options, good, bad",
    [
        ("2026", "sft", "", 8, 3),
        ("2026", "sft", "device-batch-size=16", 16, 32),
        ("2026", "sft", "total-batch-size=196608", 3, 8),
        ("2026", "rl", "", 16, 5),
        ("2025", "sft", "", 8, 16),
        ("2025", "mid", "", 8, 7),
        ("custom", "agent_rl", "", 16, 32),
    ],
)
def test_the_batch_rule_refuses_with_numbers_and_passes_with_other_gpus(
    forks: dict[str, Path], fork: str, phase: str, options: str, good: int, bad: int
) -> None:
    chosen = choose(forks[fork], options, phase)[1]
    assert chosen.batch_check(good).ok is True
    check = chosen.batch_check(bad)
    assert check.ok is False and f"{bad} GPUs" in check.text and check.text.startswith(phase)


def test_the_batch_rule_looks_at_every_phase(forks: dict[str, Path]) -> None:
    chosen = choose(forks["2025"], "rl.device-batch-size=5", "all")[1]
    assert chosen.batch_check(8).text.startswith("rl: num_samples=16 is no multiple of 5")


# ---- the evaluation
@pytest.mark.parametrize(
    "scope, has", [("quick", ["--max-problems=256"]), ("full", []), ("none", None)]
)
def test_the_evaluation_asks_for_the_tasks_of_the_report(
    forks: dict[str, Path], scope: str, has: list[str] | None
) -> None:
    fork = choose(forks["2026"], eval=scope)[1].fork
    tasks = "--task-name=ARC-Easy|ARC-Challenge|MMLU|GSM8K"
    assert list(fork.evaluation_arguments) == ([] if has is None else [tasks, *has])
    assert fork.evaluation == "scripts.chat_eval"


def test_a_checkout_without_an_evaluation_says_so_and_a_broken_one_only_counts_if_it_runs(
    forks: dict[str, Path], tmp_path: Path
) -> None:
    fork = choose(forks["2025"])[1]
    assert any(c.name == "trainer, evaluation" and "none" in c.text for c in fork.checks)
    assert fork.fork.evaluation == ""
    root = start(tmp_path / "fork", FILES_2026 | {"scripts/chat_eval.py": "def (:\n"})
    assert "scripts/chat_eval.py" in refused(root)
    assert choose(root, eval="none")
    write(root, {"pyproject.toml": toml(phase("a", 'command = "x"'), 'evaluation = "none.such"')})
    assert "has no none/such.py, which its evaluation names" in refused(root, phase="a")


def test_humaneval_is_left_out_and_that_is_said(forks: dict[str, Path]) -> None:
    notes = {c.name: c.text for c in choose(forks["2026"], humaneval="yes")[1].checks}
    assert "left out" in notes["humaneval"]


# ---- what is said and what the plan carries
def test_the_checks_say_what_runs_and_what_a_stop_keeps(forks: dict[str, Path]) -> None:
    _, chosen = choose(forks["custom"], "agent_rl.run='a b'", "all")
    said = {c.name: c.text for c in chosen.checks}
    assert said["warm runs"] == "bash train.sh --lr=1 && echo done", "a command is one line"
    assert "NOTHING when it is stopped early" in said["warm saves"]
    assert shlex.split(said["agent_rl runs"])[0] == "scripts.chat_sft"
    assert "--run=a b" in shlex.split(said["agent_rl runs"])
    assert "not the place" in said["agent_rl saves"] and "stays online" in said["trainer, data"]
    assert all(c.ok is not False for c in chosen.checks)


@pytest.mark.parametrize(("fork", "said"), [("2025", True), ("2026", False)])
def test_a_rehearsal_says_which_data_it_has(forks: dict[str, Path], fork: str, said: bool) -> None:
    s = load_settings({"trainer": str(forks[fork]), "phase": "sft"}, {})
    for rehearsed in ({}, None):
        chosen = with_trainer(s, Path("/nowhere"), rehearsed=rehearsed)[1]
        assert chosen
        found = any("no other data set" in c.text for c in chosen.checks)
        assert found is (said and rehearsed is not None)


def test_what_is_sent_too_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    root = start(tmp_path / "fork", FILES_2026)
    write(root, {"scripts/new.py": "", "notes.txt": "", ".env": "A=b\n"})
    said = {c.name: c.text for c in choose(root)[1].checks}
    assert "with uncommitted changes" in said["trainer"]
    assert "scripts/new.py" in said["trainer, untracked"]
    assert all(n in said["trainer, left out"] for n in ("notes.txt", ".env"))


def test_a_phase_whose_script_is_missing_is_refused(tmp_path: Path) -> None:
    root = start(tmp_path / "fork", {n: c for n, c in FILES_2026.items() if "chat_rl" not in n})
    assert "has no scripts/chat_rl.py: its rl cannot run" in refused(root, phase="all")
    assert choose(root)


LOADER, COMMON = "nanochat/checkpoint_manager.py", "nanochat/common.py"
MODULE = {"pyproject.toml": toml(phase("sft", 'module = "scripts.chat_sft"'))}
COMMAND = {"pyproject.toml": toml(phase("sft", 'command = "bash train.sh"'))}
UNUSABLE: list[tuple[str, Mapping[str, str | None], str]] = [
    ("a package of another name", {LOADER: None}, f"no load_model in {LOADER}"),
    ("another loader", {LOADER: "def load(): ...\n"}, f"no load_model in {LOADER}"),
    ("a declared module", MODULE | {LOADER: None}, f"no load_model in {LOADER}"),
    ("a declared command", COMMAND | {LOADER: None}, ""),
    ("a base folder from a file", {COMMON: "BASE = read('conf.yaml')\n"}, "does not read NANOCHAT"),
    ("a base folder that only the report names",
     {COMMON: "", "nanochat/report.py": "NANOCHAT_BASE_DIR"}, "does not read NANOCHAT_BASE_DIR"),
    ("a base folder set elsewhere", {COMMON: "", "nanochat/a/paths.py": "NANOCHAT_BASE_DIR"}, ""),
    ("a declared module that knows its folder", MODULE | {COMMON: ""}, ""),
]  # fmt: skip


@pytest.mark.parametrize("files, words", [u[1:] for u in UNUSABLE], ids=[u[0] for u in UNUSABLE])
def test_a_checkout_that_nanolan_cannot_load_through_is_refused_with_the_way_out(
    tmp_path: Path, files: Mapping[str, str | None], words: str
) -> None:
    found = {n: c for n, c in (FILES_2026 | files).items() if c is not None}
    root = start(tmp_path / "fork", found)
    if words:
        said = refused(root)
        assert words in said and "Declare its phases as commands" in said
    else:
        assert choose(root)


@pytest.mark.parametrize("fork, phase", [("2025", "all"), ("2026", "all"), ("custom", "all")])
def test_the_plan_with_a_fork_survives_json(forks: dict[str, Path], fork: str, phase: str) -> None:
    s, chosen = choose(forks[fork], phase=phase)
    plan = make_plan(s, B200[0], "0badcafe", "ab12cd34", CODE, Findings([]))
    assert read_plan(plan.to_json()) == plan and plan.fork == chosen.fork
    assert plan.phases == s.phases and plan.trainer == "nanolan.trainers.adapter"
    assert plan.phase(plan.phases[-1]) == chosen.fork.phases[plan.phases[-1]]
