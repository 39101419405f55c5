"""The command of a job: it fetches one checked file, and nothing of a run's values is executed by a shell."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nanolan.export.command import START, command, start_program
from nanolan.launch.request import unpack
from nanolan.plan import SKYPILOT, Plan
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import REPO, TOKEN, WRITERS, make_plan
from tests.support.core_fixtures import PLAN

SECRETS = ("HF_TOKEN", "WANDB_API_KEY")
HOSTILE = [
    "$(touch hurt)",
    "`touch hurt`",
    "'; touch hurt; '",
    '"; touch hurt; "',
    "END OF NANOLAN\ntouch hurt\n",
    "\\\nEND OF NANOLAN\ntouch hurt",
    "{values}{start}{run_id}",
    "%s %(x)s \\x00 \x00",
    "é 💥 \u2028 \x1b[31m",
    "*/../../~/.ssh ${HF_TOKEN}",
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:  # type: ignore[arg-type]
        server.put(REPO, {"README.md": b"#"})
        yield server


def literals(text: str) -> Any:
    """The values that a command's program has."""
    line = next(part for part in text.splitlines() if part.startswith("folder, sha256, names = "))
    return ast.literal_eval(line.partition(" = ")[2])


def test_the_command_holds_an_address_a_hash_and_names_and_nothing_else() -> None:
    folder, digest, names = literals(command(PLAN, "c0ffee", SECRETS))
    assert folder == "http://127.0.0.1:1/me/lanbot-checkpoints/resolve/c0ffee/runs/ab12cd34"
    assert len(digest) == 64 and names == SECRETS


@pytest.mark.parametrize("field", ["runs_repo", "run_name", "model_tag", "hf_endpoint"])
@pytest.mark.parametrize("text", HOSTILE)
def test_no_value_of_a_run_is_executed(tmp_path: Path, field: str, text: str) -> None:
    plan = replace(PLAN, **{field: text})
    stub = tmp_path / "python3"
    stub.write_text(
        f'#!/bin/sh\nexec {sys.executable} -I -c \'import sys; compile(sys.stdin.read(), "x", "exec")\'\n'
    )
    stub.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", command(plan, text, SECRETS)],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["python3"]
    program = start_program(plan)
    compile(program, START, "exec")
    assert b"touch hurt\n" not in program.replace(b"\\n", b"")


def called_with(program: bytes) -> dict[str, Any]:
    """The values in the last line of start.py."""
    call = ast.parse(program).body[-1]
    assert isinstance(call, ast.Expr) and isinstance(call.value, ast.Call)
    values: dict[str, Any] = ast.literal_eval(call.value.args[0])
    return values


def test_start_py_carries_what_an_instance_gets_but_no_secret_and_no_deadline() -> None:
    values = called_with(start_program(PLAN))
    assert values["life_s"] == 16_071
    assert values["folder"].endswith("/resolve/main/runs/ab12cd34")
    script = values["script"]
    assert not {"SECRETS", "DEADLINE", "RUN_URL"} & script.keys()
    assert b"def delete_self" in unpack(script["RESCUE"])
    assert json.loads(unpack(script["FACTS"]))["run_id"] == "ab12cd34"


def ran(server: HubServer, plan: Plan, text: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command, run with these variables."""
    return subprocess.run(
        ["bash", "-c", text],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def put(server: HubServer, plan: Plan, program: bytes) -> str:
    return server.put(REPO, {f"{plan.folder}/{START}": program})


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "HF_TOKEN is not set here"),
        ({"HF_TOKEN": ""}, "HF_TOKEN is not set here"),
        ({"HF_TOKEN": "hf_wrong"}, "May HF_TOKEN read"),
    ],
)
def test_a_job_without_its_token_ends_at_once_and_says_why(
    server: HubServer, env: dict[str, str], says: str
) -> None:
    plan = make_plan(server.url, "", platform=SKYPILOT)
    revision = put(server, plan, start_program(plan))
    done = ran(server, plan, command(plan, revision, SECRETS), **env)
    assert done.returncode == 1 and says in done.stderr


def test_another_file_than_the_exported_one_is_not_run(server: HubServer, tmp_path: Path) -> None:
    plan = make_plan(server.url, "", platform=SKYPILOT)
    hurt = tmp_path / "hurt"
    revision = put(server, plan, f"open({str(hurt)!r}, 'w')".encode())
    done = ran(server, plan, command(plan, revision, SECRETS), HF_TOKEN=TOKEN)
    assert done.returncode == 1 and "is not the one that was exported" in done.stderr
    assert not hurt.exists()


@pytest.mark.shows("output", "*", "the test's own program prints what it got")
def test_the_secrets_come_on_stdin_and_leave_the_environment(server: HubServer) -> None:
    plan = make_plan(server.url, "", platform=SKYPILOT)
    told = (
        b"import json, os, sys; print(json.dumps([sys.stdin.read(), dict(os.environ), sys.argv]))"
    )
    revision = put(server, plan, told)
    text = command(plan, revision, (*SECRETS, "NOTIFY_URL"))
    text = text.replace(literals(text)[1], __import__("hashlib").sha256(told).hexdigest())
    key = "a\"key'\\ with $everything"
    done = ran(server, plan, text, HF_TOKEN=TOKEN, WANDB_API_KEY=key, OTHER="kept")
    stdin, env, argv = json.loads(done.stdout)
    assert json.loads(stdin) == {"HF_TOKEN": TOKEN, "WANDB_API_KEY": key}
    assert "OTHER" in env and not {"HF_TOKEN", "WANDB_API_KEY"} & env.keys()
    assert TOKEN not in json.dumps(argv) and argv[1] == literals(text)[0]


def test_a_hub_that_is_busy_is_tried_again_and_the_token_goes_to_no_other_server(
    server: HubServer,
) -> None:
    plan = make_plan(server.url, "", platform=SKYPILOT)
    revision = put(server, plan, b"raise SystemExit(0)")
    text = command(plan, revision, SECRETS)
    text = text.replace(
        literals(text)[1], __import__("hashlib").sha256(b"raise SystemExit(0)").hexdigest()
    )
    server.fault(f"GET .*{START}", "status", times=2)
    done = ran(server, plan, text, HF_TOKEN=TOKEN)
    assert done.returncode == 0 and done.stdout.count("HTTPError 503") == 2
