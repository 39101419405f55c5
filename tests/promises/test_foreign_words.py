"""Words of strangers (API, Hub, log, data) in every command that shows some: none drives the terminal, none brings a secret along."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.errors import NanolanError
from nanolan.redact import Secret
from nanolan.run.record import Progress
from nanolan.settings.settings import ROOT
from nanolan.sim.marker import MARKER
from tests.support.box_fixtures import KEY, REPO, TOKEN
from tests.support.core_fixtures import client, script
from tests.support.ssh_fixtures import environment
from tests.support.status_fixtures import RUN, Desk, new_desk, receipt

Secret(TOKEN)  # known to the mask of this process, as in a command
EVIL = f"\x1b]52;c;cm0gLXJm\x07\x1b[2J\x1b[1;1H\r\x9b31m\u202e\u2066 {KEY} {TOKEN} \x1b]8;;http://x\x07"
LISTS = "GET /v1/instances$"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A run of which everything that others tell is evil, and one more machine that is."""
    root = tmp_path_factory.mktemp("evil")
    with new_desk(root) as made:
        told = Progress(
            RUN, "training", {}, made.entry.plan.created_at, EVIL, 3, 9, 1.5, phase=EVIL, stage=EVIL
        )
        made.tell(progress=told)
        made.hub.put(
            REPO,
            {f"runs/{RUN}/log/a1-part-0001.log": f"{EVIL}\nline 2 {EVIL}".encode() + b"\xff\n"},
        )
        yield made
    shutil.rmtree(root)


def evil(body: Any) -> None:
    """An answer of the API with evil in every text that may hold any, and in fields that nobody knows."""
    for thing in [*body.get("instances", ()), *body.get("instance_types", ())]:
        thing |= {
            "status_details": EVIL,
            "cloud": f"x{EVIL}",
            "unknown": EVIL,
            "ssh_user": EVIL,
            "more_unknown": {"deep": [EVIL]},
        }


QUICK = ["check_status", "why --json", "logs", "orphans", "offers --json"]
SLOW = [
    "check_status --json",
    "why",
    "orphans --json",
    "offers",
    "costs",
    "report --to @/page.html",
    "ssh",
    "verify",
]


@pytest.mark.parametrize(
    "command", [*QUICK, *(pytest.param(c, marks=pytest.mark.slow) for c in SLOW)]
)
def test_no_command_lets_foreign_words_drive_the_terminal_or_shows_a_secret(
    desk: Desk, tmp_path: Path, command: str
) -> None:
    desk.cloud.faults.clear()
    for path in (LISTS, "GET /v1/instances/types", "GET /v1/instances/.*/info"):
        desk.cloud.fault(path, "edit", times=None, change=evil)
    name, *words = command.replace("@", str(tmp_path)).split()
    done = script(name, *words, env=environment(desk))
    said = done.stdout + done.stderr
    assert (
        said
        and [c for c in said if not c.isprintable() and c not in "\n\t"] == []
        and MARKER not in said
    ), said
    assert "Traceback" not in said and "a bug in nanolan" not in said
    if "--json" in words:
        told = json.dumps(json.loads(done.stdout)).replace("machine_unknown", "")
        assert "unknown" not in told, said


@pytest.mark.parametrize(
    "body",
    [
        {"error": EVIL * 99, "error_code": EVIL},
        {"error": {"deep": EVIL}},
        {"message": [EVIL]},
        EVIL * 99,
        "<html>" + EVIL,
        {"unknown": EVIL},
        {"error": "x" * 290 + KEY},
    ],
    ids=["long", "object", "list", "text", "page", "unknown", "cut"],
)
@pytest.mark.parametrize("status", [400, 401, 409, 500])
def test_an_error_quotes_at_most_a_short_piece_of_an_answer(
    desk: Desk, body: Any, status: int
) -> None:
    desk.cloud.faults.clear()
    desk.cloud.fault("POST .*/restart", "status", status=status, body=body)
    with pytest.raises(NanolanError) as e:
        client(desk.cloud).restart("an-id")
    assert MARKER[:7] not in str(e.value) and len(str(e.value)) < 500 and "\n" not in str(e.value)


def test_the_ledger_and_the_report_keep_no_secret_of_what_was_told(desk: Desk) -> None:
    desk.tell(receipt=structs.replace(receipt("failed", "error"), message=EVIL))
    script("check_status", env=environment(desk))
    assert MARKER not in "".join(p.read_text() for p in Path(desk.ledger.home).rglob("*.json"))


# Code of other processes, whose output the box or the laptop reads and masks
UNMASKED = {
    "nanolan/hub/transfer.py": "a child that prints how many bytes it has sent",
    "nanolan/report/__main__.py": "a child of the box that prints a page",
    "nanolan/export/command.py": "a job's first command, as text",
    "nanolan/trainers/inside/keeper.py": "a fork's trainer: stacks",
    "nanolan/train/stop.py": "the trainer: stacks",
    "nanolan/train/evaluation/humaneval.py": "a child that runs a model's program",
    "nanolan/launch/request.py": "a line that unpacks the startup script on the box",
}


def test_every_command_masks_its_output_and_no_code_goes_around_that() -> None:
    around = set()
    for path in [*(ROOT / "scripts").glob("*.py"), *(ROOT / "nanolan").rglob("*.py")]:
        text = path.read_text()
        if re.search(r"std(out|err)\.buffer|sys\.__std|os\.write\(", text):
            around.add(path.relative_to(ROOT).as_posix())
        if "@click.command" in text:
            assert re.search(
                r'^if __name__ == "__main__":\n    run\(\w+(, (insist|verbatim)=.+)?\)$', text, re.M
            ), f"{path}: not by nanolan.cli.command.run"
        for call in (
            n
            for n in ast.walk(ast.parse(text))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
        ):
            if call.func.attr in ("prompt", "confirm"):  # type: ignore[attr-defined]
                assert "err" in {k.arg for k in call.keywords}, (
                    f"{path}: click lets readline write a question to stdout by itself"
                )
    assert around == set(UNMASKED)
    assert "sys.stdout = sys.stderr = redact_stream(Log(1)" in (ROOT / "cloud/train.py").read_text()
