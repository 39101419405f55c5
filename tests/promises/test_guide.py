"""Every command of the guide and of the README's code blocks is run here, against a local Shadeform and a local Hub.

The machines are played by a thread, as fast as that goes: they train, succeed, or hear `just stop`. What a command needs
to have happened before is in BEFORE, what cannot be run is in UNRUN with the reason.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from msgspec import structs

from nanolan.hub.upload_set import CHECKPOINTS
from nanolan.plan import Plan
from nanolan.run.ledger import Ledger
from nanolan.run.record import log_path
from nanolan.settings.settings import ROOT, TABLE
from nanolan.sim.hub.state import WRITER
from nanolan.sim.seed import _cached
from nanolan.sim.world import REPO, World
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import QUICK, forget, until
from tests.support.forks import commit_all, copy_fork
from tests.support.launch_fixtures import NONE, progress, receipt, tell
from tests.support.recipes import command_of as click_command
from tests.support.recipes import recipes
from tests.support.run_fixtures import result, state

PAGES = (
    "README.md",
    "docs/README.md",
    "docs/guide.md",
    "docs/fork.md",
    "docs/export.md",
    "docs/promises.md",
    "docs/performance.md",
)
DOCS = {name: (ROOT / name).read_text() for name in PAGES}
MENU = {r.name: r for r in recipes((ROOT / "justfile").read_text())}

UNRUN = {
    "just rehearse": "tests/scripts/test_rehearse.py and tests/promises/test_faults.py rehearse",
    "just rehearse-faults": "half an hour; tests/scripts/test_rehearse_faults.py",
    "just test": "this is it",
    "just train-here": "needs an NVIDIA GPU; tests/test_train_here.py trains on the CPU",
    "just notify": "needs a service that takes the word; tests/test_notify.py has one",
    "just init": "asks on a terminal; tests/scripts/test_init.py",
    "just hf auth login": "asks for a token of the real Hub",
    "just ssh": "no machine listens there; tests/scripts/test_ssh.py has a stand-in",
    "ssh -i": "no machine listens there",
    "tail -f": "on the machine",
    "open https": "opens a browser",
}
PLACEHOLDERS = {
    "YOU/lanbot-checkpoints": REPO,
    "CHECKPOINT_FOLDER": "my-checkpoints/mid_checkpoints/d20",
    "TOKENIZER_FOLDER": "my-checkpoints/tokenizer",
    "TARGET_FOLDER": "exported",
    "--from FILE": "--from sharegpt.json",
}
SHAREGPT = (
    '[{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]'
)
ENDLESS = ("just sim",)  # until Ctrl-C, which is sent; but for --list-faults


def fenced(text: str) -> Iterator[str]:
    """The commands of the code blocks that are not marked as text, with their continued lines."""
    for language, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.M | re.S):
        if language in ("", "bash", "sh"):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                if command := re.sub(r"\s+#.*|^\s*#.*", "", line).strip():
                    yield command.replace("./just ", "just ")


COMMANDS = list(dict.fromkeys(c for text in DOCS.values() for c in fenced(text)))
RUN = [c for c in COMMANDS if not c.startswith(tuple(UNRUN)) or c.endswith("--list-faults")]


# ---- a world, and machines that are played


@pytest.fixture(scope="module")
def one_world(tmp_path_factory: pytest.TempPathFactory, seed_cache: Path) -> Iterator[World]:
    with World(
        tmp_path_factory.mktemp("world"), cache=seed_cache, delays=QUICK, boxes=False
    ) as world:
        yield world


@pytest.fixture
def world(one_world: World, seed_cache: Path) -> World:
    """As seeded, with an sft checkpoint too, and no run yet."""
    forget(one_world)
    no_repo(one_world)
    built = _cached(seed_cache, "d20") / "model"
    files: dict[str, bytes | Path] = {
        p.relative_to(built).as_posix(): p for p in built.rglob("*") if p.is_file()
    }
    one_world.hub.put(REPO, files)
    return one_world


def no_repo(world: World) -> None:
    if world.hub.store.load("model", REPO):
        world.hub.store.delete("model", REPO)


@pytest.fixture
def place(tmp_path: Path, seed_cache: Path) -> Path:
    """What lies in the folder where the commands are typed, and in the user's home."""
    shutil.copytree(_cached(seed_cache, "d20") / "model", tmp_path / "my-checkpoints")
    shutil.copytree(_cached(seed_cache, "d20") / "model", tmp_path / "home/.cache/nanochat")
    base = tmp_path / "home/.cache/nanochat"
    shutil.copytree(base / "base_checkpoints", base / "chatsft_checkpoints")
    shutil.copy(ROOT / ".env.example", tmp_path)
    commit_all(copy_fork("2026", tmp_path / "home/my-nanochat"))
    (tmp_path / "sharegpt.json").write_text(SHAREGPT)
    (tmp_path / "bin").mkdir()
    shim(tmp_path / "bin/just")
    return tmp_path


def shim(path: Path) -> None:
    """A `just` that runs the recipes of our justfile as just does, without setting anything up."""
    cases = "".join(f"{name}) exec {command_of(name)} ;;\n" for name in MENU)
    path.write_text(
        f'#!/bin/sh\nrecipe=$1; shift\ncase $recipe in\n{cases}*) echo "no recipe $recipe"; exit 99 ;;\nesac\n'
    )
    path.chmod(0o755)


def command_of(name: str) -> str:
    command = (
        MENU[name]
        .command.replace("{{python}}", ".venv/bin/python")
        .replace(" scripts/", f" {ROOT}/scripts/")
    )
    return (
        command.replace(".venv/bin/", f"{Path(sys.executable).parent}/")
        if name != "pins"
        else "exit 98"
    )


@contextmanager
def played(world: World, ends: bool) -> Iterator[None]:
    """Machines: they train as soon as they bill, and if `ends` they succeed then; they hear that they shall stop."""
    over = threading.Event()

    def play() -> None:
        trains: set[tuple[str, int]] = set()
        while not over.wait(0.05):
            for e in Ledger(world.root / "nanolan-home").entries():
                plan, key = e.plan, (e.plan.run_id, e.plan.attempt)
                box = next(
                    (
                        i
                        for i in world.cloud.instances
                        if i.id == e.instance_id and i.status == "active"
                    ),
                    None,
                )
                if box is None:
                    continue
                if key not in trains:
                    trains.add(key)
                    tell(world, plan, progress("training", iso(now_utc())))
                elif f"{plan.folder}/stop.json" in world.hub.files(plan.runs_repo):
                    finish(world, plan, box.id, "stopped", "user")
                elif ends and over.wait(0.5) is False:
                    finish(world, plan, box.id, "succeeded", "")

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def finish(world: World, plan: Plan, box: str, verdict: str, reason: str) -> None:
    """What a machine leaves when it ends: its last phase whole, or a state on the way."""
    if verdict == "succeeded":
        for phase in plan.phases:
            result(world.hub, plan, phase)
    else:
        state(world.hub, plan, plan.phases[0], processes=8)
    proven = {
        p: structs.replace(NONE["sft"], state="proven" if verdict == "succeeded" else "none")
        for p in plan.phases
    }
    log = log_path(plan, verdict)
    world.hub.put(REPO, {log: f"{iso(now_utc())} boot: words\n".encode()})
    tell(world, plan, receipt(verdict, reason), phases=proven, spent_cents=1234, log=log)
    world.cloud.account.delete(box)


def typed(
    world: World, place: Path, command: str, ends: bool = True
) -> subprocess.CompletedProcess[str]:
    """A command as somebody types it in the folder `place`, in this world."""
    base = place / "home/.cache/nanochat"
    env = world.env() | {
        "HOME": str(place / "home"),
        "NANOCHAT_BASE_DIR": str(base),
        "COLUMNS": "80",
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
    }
    with played(world, ends):
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command}" if command in ENDLESS else command],
            cwd=place,
            env=env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            start_new_session=True,
        )
        if command in ENDLESS:
            assert process.stdout and "export" in process.stdout.readline()
            os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=100)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


# ---- what must have happened before


def a_run(world: World, place: Path) -> str:
    """A run that trains; its id."""
    done = typed(world, place, "just launch phase=sft --yes", ends=False)
    assert done.returncode == 0, done.stderr
    return Ledger(world.root / "nanolan-home").entries()[0].plan.run_id


def a_stopped_run(world: World, place: Path) -> str:
    """A run that was asked to stop: it left a state to go on from, and a receipt."""
    run_id = a_run(world, place)
    entry = Ledger(world.root / "nanolan-home").entries()[0]
    assert entry.instance_id
    finish(world, entry.plan, entry.instance_id, "stopped", "user")
    until(lambda: all(i.status == "deleted" for i in world.cloud.instances))
    return run_id


def all_proven(world: World, place: Path) -> str:
    assert typed(world, place, "just verify --adopt base_checkpoints/d20").returncode == 0
    return ""


def a_trained_run(world: World, place: Path) -> str:
    """A run that has succeeded: its checkpoint, its receipt, a log."""
    run_id = a_run(world, place)
    with played(world, ends=True):
        until(lambda: all(i.status == "deleted" for i in world.cloud.instances))
    world.hub.put(REPO, {"logs/error-x.log": b"words"})
    return run_id


BEFORE: dict[str, Callable[[World, Path], str]] = {
    "just stop": a_run,
    "just status": a_run,
    "just watch": a_trained_run,
    "just wait": a_trained_run,
    "just resume": a_stopped_run,
    "just limit": a_run,
    "just logs": a_trained_run,
    "just why": a_stopped_run,
    "just report": a_trained_run,
    "just pull base": all_proven,
    "just pull": a_trained_run,
    "just hf download": a_trained_run,
    "just verify": all_proven,
}
# A prompt is answered on the command line here: there is no terminal
ANSWERED = {"just launch": " --yes", "just stop": " --yes"}
AGREED = ("--yes", "-y", "instance-type=", "--dry-run")


@pytest.mark.shows(
    "output",
    "stdout of sh -c exec just sim",
    "it prints the keys of the local services, to be typed in",
)
@pytest.mark.parametrize("command", RUN)
@pytest.mark.slow  # a minute for all of them; that each parses is in the quick set
def test_every_command_of_the_guide_works(world: World, place: Path, command: str) -> None:
    before = next((make for start, make in BEFORE.items() if command.startswith(start)), None)
    run_id = before(world, place) if before else ""
    words = command
    for stands_for, real in PLACEHOLDERS.items():
        words = words.replace(stands_for, real)
    words = re.sub(r"\bRUN\b", run_id, words) if run_id else words
    for start, answer in ANSWERED.items():
        if words.startswith(start) and not any(a in words for a in AGREED):
            words += answer
    if words.startswith("just upload"):
        no_repo(world)
    done = typed(world, place, words, ends=not words.startswith("just limit"))
    code = 130 if command in ENDLESS else 0
    assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"


# ---- the page itself


def test_what_is_not_run_is_in_the_guide_and_has_a_reason() -> None:
    for start, reason in UNRUN.items():
        assert reason and (
            any(c.startswith(start) for c in COMMANDS)
            or any(start in text for text in DOCS.values())
        ), start


@pytest.mark.parametrize("name", DOCS)
def test_every_recipe_and_option_that_is_named_exists(name: str) -> None:
    for words in re.findall(r"`(?:\./)?just ([a-z][^`]*)`", DOCS[name]):
        recipe, *rest = shlex.split(words.replace("...", "x").replace("…", "x"))
        assert recipe in MENU, words
        script = MENU[recipe].script
        if script is None:
            continue
        known = {o.lstrip("-") for p in click_command(script).params for o in p.opts} | {"help"}
        for word in rest:
            if (
                word.startswith("-")
                or "=" in word
                and isinstance(click_command(script), click.Command)
            ):
                assert word.lstrip("-").partition("=")[0].replace("_", "-") in known, words


def test_the_tables_name_every_setting_with_its_default_and_every_recipe() -> None:
    guide = DOCS["docs/guide.md"]
    options = [
        line
        for line in guide.partition("## Options of a launch")[2].splitlines()
        if line.startswith("| `")
    ]
    for name, meta in TABLE.items():
        row = next((line for line in options if f"`{name.replace('_', '-')}=`" in line), "")
        assert row, name
        if meta["default"] and not meta["default"].startswith("https"):
            assert f"`{meta['default']}`" in row, row
        assert f"`{meta['env']}`" in row or "in capitals" in row, row
    for recipe in MENU:
        assert f"`just {recipe}`" in guide, recipe
    for folder in CHECKPOINTS.values():
        assert f"{folder}/d20/" in guide


def heads(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", DOCS)
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    for path, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", DOCS[name]):
        page = ROOT / Path(name).parent / path if path else ROOT / name
        assert page.exists(), path
        assert not anchor or anchor in heads(page.read_text()), anchor


def test_no_token_of_the_world_is_shown(world: World, place: Path) -> None:
    for command in ("just doctor", "just dry-run phase=sft", "just verify", "just upload base"):
        done = typed(world, place, command)
        assert (
            WRITER not in done.stdout + done.stderr
            and world.cloud.key not in done.stdout + done.stderr
        )
