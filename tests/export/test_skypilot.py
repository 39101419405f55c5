"""The task YAML: the documented fields only, no secret, and it reads back as it was meant."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml
from msgspec.structs import replace

from nanolan.errors import UsageProblem
from nanolan.export.gpus import SKYPILOT_GPUS, find_gpu
from nanolan.export.skypilot import infra_of, launch_command, task, to_yaml
from nanolan.plan import SKYPILOT
from tests.support.core_fixtures import PLAN

SCHEMA = json.loads((Path(__file__).parent / "skypilot_task.schema.json").read_text())
RUN = "exec python3 - <<'END'\nprint('a: b # c', \"\\t\", {})\nEND\n"
JOB = replace(PLAN, platform=SKYPILOT)


@pytest.mark.parametrize("gpu", SKYPILOT_GPUS)
@pytest.mark.parametrize("spot", [False, True])
@pytest.mark.parametrize("infra", ["", "aws", "gcp/us-central1"])
def test_every_task_has_the_documented_fields_and_reads_back(
    gpu: str, spot: bool, infra: str
) -> None:
    plan = replace(JOB, offer=replace(JOB.offer, gpu=gpu, spot=spot))
    made = task(plan, RUN, ("HF_TOKEN", "WANDB_API_KEY"), infra)
    text = to_yaml(plan, made, "sft.yaml")
    back = yaml.safe_load(text)
    jsonschema.validate(back, SCHEMA)
    assert back == made and back["run"] == RUN
    assert back["resources"]["max_hourly_cost"] == plan.offer.hourly_cents / 100
    assert back["resources"].get("infra", "") == infra


@pytest.mark.parametrize("tail", ["", "\n", "\n\n", " ", " \n", "\t"])
@pytest.mark.parametrize(
    "line", ["é 💥", "a: b", "# no comment", "- x", "'", '"', "  indented", ""]
)
def test_any_command_survives_the_yaml(line: str, tail: str) -> None:
    run = f"{line}\nmiddle\n{line}{tail}"
    back = yaml.safe_load(to_yaml(JOB, task(JOB, run, ("HF_TOKEN",)), "x.yaml"))
    assert back["run"] == run


@pytest.mark.parametrize("file", ["sft.yaml", "a b.yaml", "$(touch x).yaml", "-x; rm.yaml", "'"])
def test_the_command_that_starts_it_names_the_secrets_and_quotes_the_file(file: str) -> None:
    words = shlex.split(launch_command(JOB, ("HF_TOKEN", "WANDB_API_KEY"), file))
    assert words[:5] == ["sky", "jobs", "launch", "-n", "lanbot-ab12cd34"]
    assert words[5:] == ["--secret", "HF_TOKEN", "--secret", "WANDB_API_KEY", file]


def test_a_file_name_of_two_lines_adds_no_line_to_the_yaml() -> None:
    text = to_yaml(JOB, task(JOB, RUN, ("HF_TOKEN",)), "x\nname: other\n#.yaml")
    assert not [line for line in text.splitlines() if line.startswith("name: other")]


@pytest.mark.parametrize(
    ("cloud", "region", "is_"),
    [(None, None, ""), ("aws", None, "aws"), ("aws", "us-east-1", "aws/us-east-1")],
)
def test_cloud_and_region_are_its_infra(cloud: str, region: str, is_: str) -> None:
    assert infra_of(cloud, region) == is_


@pytest.mark.parametrize(
    ("cloud", "region"),
    [
        (None, "us-east-1"),
        ("a b", None),
        ("aws\n", None),
        ("../x", None),
        ("aws", "x/y"),
        ("*", None),
    ],
)
def test_what_is_no_cloud_is_refused(cloud: str, region: str) -> None:
    with pytest.raises(UsageProblem):
        infra_of(cloud, region)


@pytest.mark.parametrize(
    ("typed", "gpu"),
    [
        ("h100", "H100"),
        ("H100-SXM", "H100"),
        ("A100", "A100"),
        ("a100_80g", "A100_80G"),
        ("A100-80GB", "A100_80G"),
        ("rtx 4090", "RTX4090"),
    ],
)
def test_a_gpu_is_found_in_any_spelling(typed: str, gpu: str) -> None:
    assert find_gpu(typed) == gpu


@pytest.mark.parametrize("typed", ["any", "TPU", "H1000", "x"])
def test_a_gpu_without_a_name_at_skypilot_is_refused_with_the_list(typed: str) -> None:
    with pytest.raises(UsageProblem, match="nothing was exported. Known are: A10, "):
        find_gpu(typed)
