"""The startup script and the create request: values reach bash and JSON unchanged, and nothing in them is executed."""

from __future__ import annotations

import ast
import base64
import hashlib
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

from nanolan.errors import PreflightFailed
from nanolan.launch.request import (
    CLOUD,
    FACTS,
    MAX_SCRIPT_BYTES,
    box_secrets,
    create_body,
    minify_python,
    minify_shell,
    output_tags,
    startup_script,
    unpack,
)
from nanolan.phases import DATASETS
from nanolan.plan import Pinned, PinnedFile, Plan, read_plan
from nanolan.settings.load import load_settings
from nanolan.sim.marker import MARKER, TWIST
from nanolan.times import parse_time
from tests.sim.openapi import check_request, needs_openapi
from tests.support.core_fixtures import PLAN, a_plan, forms_of

SECRETS = {"SHADEFORM_API_KEY": f"{MARKER}-shadeform{TWIST}", "HF_TOKEN": f"hf_{MARKER}'\"$(id)"}
NAMES = (
    "RUN_ID",
    "SETUP",
    "DEVICE",
    "MIN_FREE_GB",
    "DEADLINE",
    "RUN_URL",
    "CODE_SHA256",
    "PLAN_SHA256",
    "FACTS",
    "SECRETS",
    "RESCUE",
)
ANY = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=40
)  # bash cannot hold a NUL
EVIL = "a'\"; $(touch evil) `touch evil`\n touch evil & \\ ${HOME} #\r\u2028"


def header(script: str) -> str:
    """All of it but its last line, which runs boot.sh."""
    head, boot, rest = script.rpartition('\neval "$BOOT"\n')
    assert boot and not rest
    return head


def values_in_bash(script: str) -> dict[str, str]:
    """The variables as bash has them after the header; fails if anything in it ran."""
    show = "\n".join(f"printf '%s\\0' \"${{{name}}}\"" for name in (*NAMES, "BOOT"))
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["/bin/bash", "-c", header(script) + "\n" + show],
            cwd=folder,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
        )
        assert done.returncode == 0 and done.stderr == b"" and list(Path(folder).iterdir()) == []
    return dict(zip((*NAMES, "BOOT"), done.stdout.decode().split("\0"), strict=False))


@settings(max_examples=12, deadline=None)
@example(EVIL, EVIL, EVIL, EVIL)
@given(ANY, ANY, ANY, ANY)
def test_any_text_reaches_bash_and_the_plan_unchanged_and_nothing_in_it_runs(
    name: str, repo: str, path: str, key: str
) -> None:
    pinned = replace(PLAN.inputs[0], files=(replace(PLAN.inputs[0].files[0], path=path),))
    plan = a_plan(
        run_id=name,
        run_name=name,
        runs_repo=repo,
        model_tag=path,
        setup=name,
        hf_endpoint=repo,
        inputs=(pinned,),
    )
    seen = values_in_bash(startup_script(plan, {"HF_TOKEN": key}, path))
    assert seen["RUN_ID"] == name and seen["SETUP"] == name
    assert seen["RUN_URL"] == f"{repo}/{repo}/resolve/{path}/runs/{name}"
    assert json.loads(unpack(seen["FACTS"])) == json.loads(
        json.dumps({n: getattr(plan, n) for n in FACTS})
    )
    assert (
        seen["PLAN_SHA256"] == hashlib.sha256(plan.to_json()).hexdigest()
        and read_plan(plan.to_json()) == plan
    )
    assert json.loads(unpack(seen["SECRETS"])) == {"HF_TOKEN": key}


@pytest.mark.shows("argv", "/bin/bash -c *", "the test runs the script's head")
@pytest.mark.shows("output", "stdout of /bin/bash -c *", "and has it say its values")
def test_the_script_has_a_shebang_is_valid_bash_and_contains_what_the_box_needs() -> None:
    script = startup_script(PLAN, SECRETS, "f" * 40)
    assert script.startswith("#!/bin/bash\n")
    assert (
        subprocess.run(["/bin/bash", "-n"], input=script, text=True, capture_output=True).stderr
        == ""
    )
    seen = values_in_bash(script)
    assert (
        int(seen["DEADLINE"]) == parse_time(PLAN.deadline).timestamp()
        and seen["MIN_FREE_GB"] == "60"
    )
    assert (
        seen["RUN_URL"]
        == f"http://127.0.0.1:1/me/lanbot-checkpoints/resolve/{'f' * 40}/runs/ab12cd34"
    )
    assert seen["CODE_SHA256"] == PLAN.code.sha256 and seen["DEVICE"] == "cuda"
    assert unpack(seen["RESCUE"]).decode() == minify_python((CLOUD / "rescue.py").read_text())
    assert seen["BOOT"] == minify_shell((CLOUD / "boot.sh").read_text()).rstrip("\n")


def without_docstrings(source: str) -> str:
    """What a Python program does, as text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            del node.body[0]
    return ast.dump(tree)


def test_the_minified_rescue_program_does_what_its_file_does() -> None:
    source = (CLOUD / "rescue.py").read_text()
    assert ast.dump(ast.parse(minify_python(source))) == without_docstrings(source)
    assert not [line for line in minify_python(source).splitlines() if line not in source], (
        "each line is one of the file, or its start"
    )


def test_what_travels_of_boot_sh_is_each_of_its_commands() -> None:
    lines = [
        line.partition("  # ")[0].rstrip() for line in (CLOUD / "boot.sh").read_text().splitlines()
    ]
    assert minify_shell((CLOUD / "boot.sh").read_text()).splitlines() == [
        line for line in lines if line and not line.startswith("#")
    ]


# What is on a real machine: keys as long as they come, a d20 that trains all phases on all data sets
KEYS = {
    "SHADEFORM_API_KEY": "k" * 3 + os.urandom(30).hex(),
    "HF_TOKEN": "hf_" + os.urandom(17).hex(),
    "WANDB_API_KEY": os.urandom(43).hex(),
    "NOTIFY_URL": "https://hooks.slack.com/services/T0/B0/" + os.urandom(16).hex(),
}


def real_plan(**changes: Any) -> Plan:
    """A plan for all phases with every file of every data set pinned, as a launch makes it."""

    def pinned(repo: str, kind: str, *paths: str) -> Pinned:
        files = tuple(
            PinnedFile(path, 987_654_321, os.urandom(32).hex(), os.urandom(20).hex())
            for path in paths
        )
        return Pinned(repo, kind, os.urandom(20).hex(), files, True)

    inputs = pinned(
        "some-longer-name/nanochat-checkpoints",
        "model",
        "base_checkpoints/d20/model_021400.pt",
        "base_checkpoints/d20/meta_021400.json",
        "tokenizer/tokenizer.pkl",
        "tokenizer/token_bytes.pt",
        "identity_conversations.jsonl",
    )
    data = tuple(
        pinned(
            d.repo,
            "dataset",
            *(
                g.replace("*", f"{i:05}-of-00010")
                for g in (d.train, d.test)
                if g
                for i in range(10)
            ),
        )
        for d in DATASETS.values()
    )
    return a_plan(
        phases=("mid", "sft", "rl"),
        inputs=(inputs,),
        datasets=data,
        hf_endpoint="https://huggingface.co",
        shadeform_api="https://api.shadeform.ai/v1",
        runs_repo=inputs.repo,
        hf_repo=inputs.repo,
        **changes,
    )


def test_a_real_script_with_all_secrets_is_12000_bytes_at_most() -> None:
    size = len(startup_script(real_plan(), KEYS, "f" * 40))
    assert size <= 12_000 == MAX_SCRIPT_BYTES, size
    assert len(base64.b64encode(b"x" * MAX_SCRIPT_BYTES)) == 16_000, "as it is sent"


def test_the_script_does_not_grow_with_the_files_of_a_plan() -> None:
    one, many = (
        len(startup_script(plan, KEYS, "f" * 40))
        for plan in (replace(real_plan(), inputs=(), datasets=()), real_plan())
    )
    assert one == many


def test_every_value_that_boot_sh_demands_is_given() -> None:
    demanded = {
        part.split(":?")[0]
        for part in (CLOUD / "boot.sh").read_text().split("${")[1:]
        if ":?" in part.split("}")[0]
    }
    assert demanded == set(NAMES)


def test_secrets_occur_once_in_the_script_packed_and_never_in_the_plan() -> None:
    script = startup_script(PLAN, SECRETS, "main")
    line = next(line for line in script.splitlines() if line.startswith("SECRETS="))
    seen = values_in_bash(script)
    rest = (
        script.replace(line, "")
        + "".join(unpack(seen[name]).decode() for name in ("FACTS", "RESCUE"))
        + seen["BOOT"]
    )
    for value in SECRETS.values():
        assert value not in script and not any(form in rest for form in forms_of(value))
    assert not any(value.encode() in PLAN.to_json() for value in SECRETS.values())


def test_a_script_that_clouds_may_not_take_is_refused() -> None:
    with pytest.raises(PreflightFailed, match="more than the 12,000 .*nothing was rented"):
        startup_script(PLAN, SECRETS | {"NOTIFY_URL": os.urandom(3000).hex()}, "main")


def test_the_box_gets_only_the_secrets_that_are_set() -> None:
    s = load_settings({"shadeform_api_key": "key-01234", "hf_token": "hf_01234"}, {})
    assert box_secrets(s) == {"SHADEFORM_API_KEY": "key-01234", "HF_TOKEN": "hf_01234"}
    assert box_secrets(load_settings({"wandb_api_key": "w-01234"}, {})) == {
        "WANDB_API_KEY": "w-01234"
    }


@pytest.mark.parametrize(
    "flags, key",
    [
        ({}, "key-01234"),
        ({"self_delete": "off"}, None),
        ({"shadeform_api_key_box": "second-key"}, "second-key"),
        ({"shadeform_api_key_box": "second-key", "self_delete": "no"}, None),
    ],
    ids=str,
)
def test_the_box_gets_the_first_the_second_or_no_shadeform_key_and_never_two(
    flags: dict[str, str], key: str | None
) -> None:
    s = load_settings({"shadeform_api_key": "key-01234", "hf_token": "hf_01234"} | flags, {})
    sent = box_secrets(s)
    assert sent.get("SHADEFORM_API_KEY") == key and len(sent) == 1 + bool(key)
    script = startup_script(PLAN, sent, "main")
    inside = unpack(values_in_bash(script)["SECRETS"]).decode()
    assert [k for k in ("key-01234", "second-key") if k in inside] == ([key] if key else [])


# ---- the create request


@needs_openapi
@pytest.mark.parametrize(
    "changes",
    [{}, {"phases": ("mid", "sft")}, {"limit_cents": 1}, {"run_id": EVIL, "hf_repo": EVIL}],
    ids=str,
)
def test_the_create_request_is_what_the_api_describes(changes: dict[str, Any]) -> None:
    plan = a_plan(**changes)
    check_request(
        "POST", "/instances/create", create_body(plan, startup_script(plan, SECRETS, "main"))
    )
    check_request(
        "POST", "/instances/create", create_body(plan, "x", "26bedfa2-1e98-4ff5-9342-a5b0987a2f0f")
    )


def test_a_key_is_named_only_if_there_is_one() -> None:
    assert (
        "ssh_key_id" not in create_body(PLAN, "x")
        and create_body(PLAN, "x", "k-1")["ssh_key_id"] == "k-1"
    )


@given(st.integers(1, 10**6))
def test_every_create_carries_both_limits_and_the_alert_at_60_percent(cents: int) -> None:
    body = create_body(a_plan(limit_cents=cents), "x")
    assert Decimal(body["auto_delete"]["spend_threshold"]) * 100 == cents
    assert body["auto_delete"]["date_threshold"] == PLAN.deadline
    assert Decimal(body["alert"]["spend_threshold"]) * 100 == cents * 60 // 100


def test_the_create_request_names_offer_image_run_and_owner() -> None:
    body = create_body(a_plan(phases=("mid", "sft"), output_tag="d20-exp1"), "x")
    assert (body["cloud"], body["region"], body["shade_instance_type"], body["os"]) == (
        "hyperstack",
        "canada-1",
        "8x_b200_pcie_192gb",
        "ubuntu24.04_cuda13.0_shade_os",
    )
    assert body["shade_cloud"] is True and body["name"] == "lanbot-mid-sft-20261123-1200-ab12cd34"
    assert body["tags"] == [
        "nanolan",
        "nanolan-run=ab12cd34",
        "nanolan-attempt=1",
        "nanolan-owner=0badcafe",
        "nanolan-out=me/lanbot-checkpoints/mid_checkpoints/d20-exp1",
        "nanolan-out=me/lanbot-checkpoints/chatsft_checkpoints/d20-exp1",
    ]
    assert (
        base64.b64decode(body["launch_configuration"]["script_configuration"]["base64_script"])
        == b"x"
    )
    assert (
        "ssh_key_id" not in body and "envs" not in body
    )  # whether envs reach the script is not known


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
