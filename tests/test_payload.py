"""The startup script and the create request: values cross into bash and JSON unchanged, and nothing in them runs."""
from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nanolan.config import load_settings
from nanolan.errors import PreflightFailed
from nanolan.payload import CLOUD, MOST_SCRIPT_BYTES, box_secrets, create_body, output_tags, startup_script
from nanolan.plan import parse_time, read_plan
from nanolan.sim.marker import MARKER, TWIST
from tests.core_fixtures import PLAN, a_plan, forms_of
from tests.sim.openapi import check_request, needs_openapi

SECRETS = {"SHADEFORM_API_KEY": f"{MARKER}-shadeform{TWIST}", "HF_TOKEN": f"hf_{MARKER}'\"$(id)"}
NAMES = ("RUN_ID", "SETUP", "MIN_FREE_GB", "DEADLINE", "CODE_URL", "CODE_SHA256", "PLAN_B64", "SECRETS_B64", "RESCUE_B64")
ANY = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=40)   # bash cannot hold a NUL
EVIL = "a'\"; $(touch evil) `touch evil`\n touch evil & \\ ${HOME} #\r\u2028"


def header(script: str) -> str:
    """What the launcher puts in front of boot.sh."""
    own = (CLOUD / "boot.sh").read_text()
    assert script.endswith(own)
    return script[: -len(own)]


def values_in_bash(script: str) -> dict[str, str]:
    """The variables as bash has them after the header; fails if anything in it ran."""
    show = "\n".join(f"printf '%s\\0' \"${{{name}}}\"" for name in NAMES)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["/bin/bash", "-c", header(script) + "\n" + show], cwd=folder, env={"PATH": os.environ["PATH"]},
                              capture_output=True)
        assert done.returncode == 0 and done.stderr == b"" and list(Path(folder).iterdir()) == []
    return dict(zip(NAMES, done.stdout.decode().split("\0"), strict=False))


@settings(max_examples=30, deadline=None)
@example(EVIL, EVIL, EVIL, EVIL)
@given(ANY, ANY, ANY, ANY)
def test_any_text_reaches_bash_and_the_plan_unchanged_and_nothing_in_it_runs(name: str, repo: str, path: str, key: str) -> None:
    pinned = replace(PLAN.inputs[0], files=(replace(PLAN.inputs[0].files[0], path=path),))
    plan = a_plan(run_id=name, run_name=name, runs_repo=repo, model_tag=path, setup=name, hf_endpoint=repo, inputs=(pinned,))
    seen = values_in_bash(startup_script(plan, {"HF_TOKEN": key}, path))
    assert seen["RUN_ID"] == name and seen["SETUP"] == name
    assert seen["CODE_URL"] == f"{repo}/{repo}/resolve/{path}/runs/{name}/code.bundle"
    assert read_plan(base64.b64decode(seen["PLAN_B64"])) == plan
    assert json.loads(base64.b64decode(seen["SECRETS_B64"])) == {"HF_TOKEN": key}


@pytest.mark.shows("argv", "/bin/bash -c *", "the test runs the script's head")
@pytest.mark.shows("output", "stdout of /bin/bash -c *", "and has it say its values")
def test_the_script_has_a_shebang_is_good_bash_and_carries_what_the_box_needs() -> None:
    script = startup_script(PLAN, SECRETS, "f" * 40)
    assert script.startswith("#!/bin/bash\n")
    assert subprocess.run(["/bin/bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
    seen = values_in_bash(script)
    assert int(seen["DEADLINE"]) == parse_time(PLAN.deadline).timestamp() and seen["MIN_FREE_GB"] == "60"
    assert seen["CODE_URL"] == f"http://127.0.0.1:1/me/lanbot-checkpoints/resolve/{'f' * 40}/runs/ab12cd34/code.bundle"
    assert base64.b64decode(seen["RESCUE_B64"]) == (CLOUD / "rescue.py").read_bytes() and seen["CODE_SHA256"] == PLAN.code.sha256


def test_every_value_that_boot_sh_demands_is_given() -> None:
    demanded = {part.split(":?")[0] for part in (CLOUD / "boot.sh").read_text().split("${")[1:] if ":?" in part.split("}")[0]}
    assert demanded == set(NAMES)


def test_secrets_are_in_one_place_of_the_script_and_never_in_clear_or_in_the_plan() -> None:
    script = startup_script(PLAN, SECRETS, "main")
    line = next(line for line in script.splitlines() if line.startswith("SECRETS_B64="))
    rest = script.replace(line, "")
    for value in SECRETS.values():
        assert value not in script and not any(form in rest for form in forms_of(value))
    assert not any(value.encode() in PLAN.to_json() for value in SECRETS.values())


def test_a_script_that_clouds_may_not_take_is_refused() -> None:
    many = replace(PLAN.inputs[0], files=PLAN.inputs[0].files * 400)
    with pytest.raises(PreflightFailed, match=f"more than {MOST_SCRIPT_BYTES}.*nothing was rented"):
        startup_script(a_plan(inputs=(many,)), SECRETS, "main")


def test_the_box_gets_only_the_secrets_that_are_set() -> None:
    s = load_settings({"shadeform_api_key": "key-01234", "hf_token": "hf_01234"}, {})
    assert box_secrets(s) == {"SHADEFORM_API_KEY": "key-01234", "HF_TOKEN": "hf_01234"}
    assert box_secrets(load_settings({"wandb_api_key": "w-01234"}, {})) == {"WANDB_API_KEY": "w-01234"}


@pytest.mark.parametrize("flags, key", [
    ({}, "key-01234"), ({"self_delete": "off"}, None), ({"shadeform_api_key_box": "second-key"}, "second-key"),
    ({"shadeform_api_key_box": "second-key", "self_delete": "no"}, None)], ids=str)
def test_yours_or_the_second_or_no_shadeform_key_travels_and_never_two(flags: dict[str, str], key: str | None) -> None:
    s = load_settings({"shadeform_api_key": "key-01234", "hf_token": "hf_01234"} | flags, {})
    sent = box_secrets(s)
    assert sent.get("SHADEFORM_API_KEY") == key and len(sent) == 1 + bool(key)
    script = startup_script(PLAN, sent, "main")
    inside = base64.b64decode(values_in_bash(script)["SECRETS_B64"]).decode()
    assert [k for k in ("key-01234", "second-key") if k in inside] == ([key] if key else [])


# ---- the create request

@needs_openapi
@pytest.mark.parametrize("changes", [{}, {"phases": ("mid", "sft")}, {"limit_cents": 1}, {"run_id": EVIL, "hf_repo": EVIL}],
                         ids=str)
def test_the_create_request_is_what_the_api_describes(changes: dict[str, Any]) -> None:
    plan = a_plan(**changes)
    check_request("POST", "/instances/create", create_body(plan, startup_script(plan, SECRETS, "main")))
    check_request("POST", "/instances/create", create_body(plan, "x", "26bedfa2-1e98-4ff5-9342-a5b0987a2f0f"))


def test_a_key_is_named_only_if_there_is_one() -> None:
    assert "ssh_key_id" not in create_body(PLAN, "x") and create_body(PLAN, "x", "k-1")["ssh_key_id"] == "k-1"


@given(st.integers(1, 10**6))
def test_every_create_carries_both_limits_and_the_alert_at_60_percent(cents: int) -> None:
    body = create_body(a_plan(limit_cents=cents), "x")
    assert Decimal(body["auto_delete"]["spend_threshold"]) * 100 == cents
    assert body["auto_delete"]["date_threshold"] == PLAN.deadline
    assert Decimal(body["alert"]["spend_threshold"]) * 100 == cents * 60 // 100


def test_the_create_request_names_offer_image_run_and_owner_and_bills_through_shadeform() -> None:
    body = create_body(a_plan(phases=("mid", "sft"), output_tag="d20-exp1"), "x")
    assert (body["cloud"], body["region"], body["shade_instance_type"], body["os"]) == (
        "hyperstack", "canada-1", "8x_b200_pcie_192gb", "ubuntu24.04_cuda13.0_shade_os")
    assert body["shade_cloud"] is True and body["name"] == "lanbot-mid-sft-20261123-1200-ab12cd34"
    assert body["tags"] == ["nanolan", "nanolan-run=ab12cd34", "nanolan-attempt=1", "nanolan-owner=0badcafe",
                            "nanolan-out=me/lanbot-checkpoints/mid_checkpoints/d20-exp1",
                            "nanolan-out=me/lanbot-checkpoints/chatsft_checkpoints/d20-exp1"]
    assert base64.b64decode(body["launch_configuration"]["script_configuration"]["base64_script"]) == b"x"
    assert "ssh_key_id" not in body and "envs" not in body   # whether envs reach the script is not known


def test_two_runs_clash_only_where_they_write_the_same_folder() -> None:
    sft, both = set(output_tags(PLAN)), set(output_tags(a_plan(phases=("mid", "sft"))))
    assert sft < both and not sft & set(output_tags(a_plan(output_tag="d20-exp1")))
    assert not sft & set(output_tags(a_plan(phases=("mid",))))
    assert not sft & set(output_tags(a_plan(hf_repo="me/other")))


@given(ANY, ANY)
def test_any_text_is_the_same_in_the_request(region: str, name: str) -> None:
    plan = a_plan(offer=replace(PLAN.offer, region=region, instance_type=name), hf_repo=name)
    sent = json.loads(msgspec.json.encode(create_body(plan, name)))
    assert sent["region"] == region and sent["shade_instance_type"] == name
    assert sent["tags"][-1] == f"nanolan-out={name}/chatsft_checkpoints/d20"
