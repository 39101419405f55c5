"""What a machine leaves on the Hub before it is deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from nanolan.box.upload.final_files import (
    FINAL_FILES,
    REPORT_S,
    final_files,
    public_leak_warning,
    spare_s,
    update_model_card,
)
from nanolan.checkpoint.evaluation import PhaseSamples, Sample, beside, read_samples
from nanolan.cost.budget import ASSUMED
from nanolan.redact import Secret
from nanolan.report.final import rendered
from nanolan.run.postmortem import read_postmortem
from nanolan.run.record import read_receipt
from nanolan.sim.hub.server import HubServer
from nanolan.times import now_utc
from tests.support.box_fixtures import TOKEN, WRITERS
from tests.support.core_fixtures import Waits
from tests.support.report_fixtures import FOLDERS, PHASES, PLAN, RECEIPT, lines, rows

LOG, FOLDER = RECEIPT.log, PLAN.folder
MID = replace(RECEIPT, phases={"mid": PHASES["mid"]})


def machine(
    work: Path, hub: str = "http://127.0.0.1:1", soft: bool = False, hard: bool = False, **plan: Any
) -> Any:
    """A machine of what the leaves look at."""
    from nanolan.hub.client import Hub

    plan_ = replace(PLAN, hf_endpoint=hub, **plan)
    (work / "trainer").mkdir(exist_ok=True)
    deps = SimpleNamespace(
        probes={"secret": lambda folder: f"a line with {TOKEN}"},
        now=now_utc,
        render=lambda what, files, most_s: rendered(what, files),
        clock=lambda: 0.0,
        hub=lambda *a, **k: Hub(*a, **{**k, "sleep": Waits(), "patience_s": 0}),
    )
    return SimpleNamespace(
        work=work,
        state=work,
        plan=plan_,
        deps=deps,
        heartbeat=SimpleNamespace(
            log=lambda: b"the log",
            has_masked=lambda: True,
            log_tail=lambda size: "CUDA out of memory\n",
        ),
        token=Secret(TOKEN),
        secrets={"HF_TOKEN": Secret(TOKEN)},
        meter=SimpleNamespace(
            should_stop=lambda: soft, must_give_up=lambda: hard, margin=ASSUMED["cpu"]
        ),
        evaluation=lambda phase: work / f"trainer/evaluation-{phase}.json",
    )


def answered(m: Any, phase: str, text: str) -> None:
    beside(m.evaluation(phase)).write_bytes(
        msgspec.json.encode(PhaseSamples(phase, 1, (Sample("Chat", "Who are you?", text),)))
    )


def test_the_log_the_metrics_and_the_receipt_are_left(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir(exist_ok=True)
    (tmp_path / "trainer/metrics.jsonl").write_bytes(b'{"step": 1}\n')
    files = final_files(machine(tmp_path), RECEIPT)
    assert files[LOG] == b"the log"
    assert files[f"{FOLDER}/metrics.jsonl"] == b'{"step": 1}\n'
    receipt = files[f"{FOLDER}/receipt.json"]
    assert isinstance(receipt, bytes) and read_receipt(receipt) == RECEIPT


def test_a_run_without_metrics_or_answers_leaves_none(tmp_path: Path) -> None:
    files = final_files(machine(tmp_path), RECEIPT)
    assert f"{FOLDER}/metrics.jsonl" not in files and f"{FOLDER}/samples.json" not in files
    assert {f"{FOLDER}/environment.json", f"{FOLDER}/report.html"} <= set(files)


def test_a_report_that_took_the_program_down_is_not_made_again(tmp_path: Path) -> None:
    assert f"{FOLDER}/report.html" in final_files(machine(tmp_path), RECEIPT)
    again = final_files(
        machine(tmp_path), RECEIPT
    )  # the next life of the program: nobody knows how the first ended
    assert f"{FOLDER}/report.html" not in again and f"{FOLDER}/receipt.json" in again


def test_once_what_is_left_is_for_deleting_there_is_no_report(tmp_path: Path) -> None:
    files = final_files(machine(tmp_path, soft=True, hard=True), RECEIPT)
    assert set(files) == {LOG, f"{FOLDER}/receipt.json"}
    assert (spare_s(machine(tmp_path)), spare_s(machine(tmp_path, soft=True))) == (
        REPORT_S,
        ASSUMED["cpu"].total_s,
    )


def test_answers_of_all_phases_are_left_in_their_order_and_shown_in_the_report_with_the_curves(
    tmp_path: Path,
) -> None:
    m = machine(tmp_path)
    answered(m, "sft", "I am Lanbot.")
    answered(m, "mid", "Who?")
    (tmp_path / "trainer/evaluation-rl.samples.json").write_text("{half")
    (tmp_path / "trainer").mkdir(exist_ok=True)
    (tmp_path / "trainer/metrics.jsonl").write_bytes(lines(rows(20)))
    files = final_files(m, RECEIPT)
    samples, report = files[f"{FOLDER}/samples.json"], files[f"{FOLDER}/report.html"]
    assert isinstance(samples, bytes) and [s.phase for s in read_samples(samples)] == ["mid", "sft"]
    assert (
        isinstance(report, bytes)
        and b"I am Lanbot." in report
        and b"<svg" in report
        and b"Succeeded" in report
    )


@pytest.mark.shows("file", "*.samples.json", "what the model answered is the input here")
def test_no_secret_is_in_what_is_left(tmp_path: Path) -> None:
    m = machine(tmp_path, run_name=TOKEN)
    answered(m, "mid", f"My token is {TOKEN}")
    assert not [
        path
        for path, data in final_files(m, RECEIPT).items()
        if isinstance(data, bytes) and TOKEN.encode() in data
    ]


def test_a_leave_that_cannot_be_made_keeps_none_of_the_others_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(m: Any, receipt: Any) -> bytes:
        raise KeyError("a chart")

    files = final_files(machine(tmp_path), RECEIPT, {"broken.html": broken, **FINAL_FILES})
    assert f"{FOLDER}/receipt.json" in files and f"{FOLDER}/broken.html" not in files
    assert "broken.html could not be made: KeyError" in capsys.readouterr().out


# ------------------------------------------------------------------ the postmortem
FAILED = replace(RECEIPT, verdict="failed", reason="oom", message="phase sft: words")


def test_a_run_that_ended_short_leaves_a_postmortem_and_its_headlines_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trainer").mkdir(exist_ok=True)
    (tmp_path / "trainer/heartbeat.json").write_text(
        '{"phase": "sft", "step": 12, "steps": 90, "stage": "train"}'
    )
    data = final_files(machine(tmp_path), FAILED)[f"{FOLDER}/postmortem.json"]
    assert isinstance(data, bytes) and TOKEN.encode() not in data
    box = read_postmortem(data)
    assert box.cause == "CUDA out of memory in training at step 12" and box.seen == {
        "secret": ["a line with ***"]
    }
    assert "postmortem: cause: CUDA out of memory in training at step 12" in capsys.readouterr().out


def test_a_machine_that_has_money_for_its_deletion_alone_is_not_examined(tmp_path: Path) -> None:
    data = final_files(machine(tmp_path, soft=True, hard=True), FAILED)[f"{FOLDER}/postmortem.json"]
    assert isinstance(data, bytes) and read_postmortem(data).seen == {}


def test_a_run_that_succeeded_leaves_no_postmortem(tmp_path: Path) -> None:
    assert f"{FOLDER}/postmortem.json" not in final_files(machine(tmp_path), RECEIPT)


def test_the_log_is_read_last_so_that_it_holds_what_was_said_of_the_others(tmp_path: Path) -> None:
    said: list[str] = []
    m = machine(tmp_path)
    m.heartbeat.log = lambda: "".join(said).encode()
    files = final_files(m, RECEIPT, {"a": lambda m, receipt: said.append("said on the way")})  # type: ignore[dict-item,func-returns-value]
    assert files[LOG] == b"said on the way"


# ------------------------------------------------------------------ the model card
@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:
        server.put(PLAN.hf_repo, {f"{FOLDERS['mid']}/manifest.json": b"{}"})
        yield server


def readme(hub: HubServer) -> str | None:
    return (
        hub.read(PLAN.hf_repo, "README.md").decode()
        if "README.md" in hub.files(PLAN.hf_repo)
        else None
    )


def test_the_card_tells_of_what_is_proven_and_keeps_the_users_text(
    tmp_path: Path, hub: HubServer
) -> None:
    hub.put(PLAN.hf_repo, {"README.md": "---\nlicense: mit\n---\n# Grüße\n".encode()})
    update_model_card(machine(tmp_path, hub.url), RECEIPT)
    text = readme(hub) or ""
    assert "# Grüße" in text and "license: mit" in text and f"| `{FOLDERS['mid']}` |" in text
    assert FOLDERS["sft"] not in text, "the Hub has no such folder"


@pytest.mark.parametrize(
    "receipt, soft",
    [
        (replace(RECEIPT, phases={}), False),
        (replace(RECEIPT, phases={"mid": replace(PHASES["mid"], state="failed")}), False),
        (MID, True),
    ],
)
def test_without_a_proof_or_without_money_for_it_there_is_no_card(
    tmp_path: Path, hub: HubServer, receipt: Any, soft: bool
) -> None:
    update_model_card(machine(tmp_path, hub.url, soft), receipt)
    assert readme(hub) is None


def test_a_readme_that_cannot_be_read_stays_as_it_is(
    tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.put(PLAN.hf_repo, {"README.md": b"\xff\xfe"})
    update_model_card(machine(tmp_path, hub.url), MID)
    assert hub.read(PLAN.hf_repo, "README.md") == b"\xff\xfe"
    assert "the model card stays as it was: UnicodeDecodeError" in capsys.readouterr().out
    hub.put(PLAN.hf_repo, {"README.md": b"mine"})
    hub.fault(match="README.md", action="status", status=503, times=99)
    update_model_card(machine(tmp_path, hub.url), MID)
    assert hub.read(PLAN.hf_repo, "README.md") == b"mine"
    assert "the model card stays as it was: Unreachable" in capsys.readouterr().out


def test_a_hub_that_refuses_the_card_fails_nothing(
    tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fault(match="commit", action="status", status=403, times=99)
    update_model_card(machine(tmp_path, hub.url), MID)
    assert readme(hub) is None and "the model card stays as it was" in capsys.readouterr().out


def test_scores_that_the_hub_refuses_stay_out_of_the_front_matter(
    tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.put(PLAN.hf_repo, {"README.md": b"---\nlicense: mit\n---\n# Mine\n"})
    hub.fault(
        match="/api/validate-yaml",
        action="status",
        status=400,
        body={"errors": [{"message": '"model-index" is not liked'}], "warnings": []},
    )
    update_model_card(machine(tmp_path, hub.url), MID)
    text = readme(hub) or ""
    assert "model-index" not in text and "| ARC-Easy |" in text and "license: mit" in text
    assert "scores stay out of its metadata" in capsys.readouterr().out
    update_model_card(machine(tmp_path, hub.url), MID)
    assert "model-index" in (readme(hub) or ""), "the Hub takes it again"


def test_a_card_that_the_hub_refuses_without_scores_too_fails_nothing(
    tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.bad_readmes = '"license" must be one of [...]'
    update_model_card(machine(tmp_path, hub.url), MID)
    assert readme(hub) is None and "the model card stays as it was" in capsys.readouterr().out


def test_the_card_has_no_secret(tmp_path: Path, hub: HubServer) -> None:
    update_model_card(machine(tmp_path, hub.url), replace(MID, ended=TOKEN))
    assert TOKEN not in (readme(hub) or TOKEN)


@pytest.mark.parametrize("public", [False, True])
def test_a_secret_in_a_log_that_anybody_can_read_is_said_in_its_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], public: bool
) -> None:
    m = machine(tmp_path, public=public)
    final_files(m, RECEIPT)
    assert (
        bool(public_leak_warning(m)),
        "WARNING: A SECRET WAS PRINTED" in capsys.readouterr().out.splitlines()[-1:][0]
        if public
        else False,
    ) == (public, public)
