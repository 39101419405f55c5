"""`just init` at a terminal: three answers, a .env that only its owner can read, then doctor; no key on the screen."""

from __future__ import annotations

import stat
from pathlib import Path

from nanolan.settings.env_lines import read_env
from nanolan.sim.hub.state import WRITER
from nanolan.sim.world import REPO, World
from tests.support.core_fixtures import script
from tests.support.launch_script_fixtures import Terminal
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures

ASKED = ("SHADEFORM_API_KEY", "HF_TOKEN", "HF_REPO")


def empty(world: World, tmp_path: Path) -> tuple[dict[str, str], Path]:  # noqa: F811
    """The environment of somebody who has set nothing, and where their .env will be."""
    path = tmp_path / ".env"
    path.touch(0o644)
    env = {k: v for k, v in world.env().items() if k not in ASKED}
    return env | {"NANOLAN_ENV_FILE": str(path), "HF_HOME": str(tmp_path / "hf")}, path


def test_three_answers_lead_to_a_private_env_file_and_a_checked_set_up(
    world: World,  # noqa: F811
    tmp_path: Path,
) -> None:
    env, path = empty(world, tmp_path)
    terminal = Terminal(env, name="init")
    terminal.expect_question("Shadeform key, not shown: ")
    terminal.type("wrong\n")
    terminal.expect("not accepted")
    terminal.expect_question("Shadeform key, not shown: ")
    terminal.type(f"{world.cloud.key}\n")
    terminal.expect_question("Hub token, not shown: ")
    terminal.type(f"{WRITER}\n")
    terminal.expect_question("owner/name: ")
    terminal.type(f"{REPO}\n")
    assert terminal.close() == 0, terminal.text
    assert "A launch can start" in terminal.text
    assert world.cloud.key not in terminal.text and WRITER not in terminal.text
    assert read_env(path, ASKED).values == {
        "SHADEFORM_API_KEY": world.cloud.key,
        "HF_TOKEN": WRITER,
        "HF_REPO": REPO,
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_that_is_typed_before_its_question_is_not_shown(
    world: World,  # noqa: F811
    tmp_path: Path,
) -> None:
    env, _ = empty(world, tmp_path)
    terminal = Terminal(env, name="init")
    terminal.expect_question("Shadeform key, not shown: ")
    terminal.type(f"{world.cloud.key}\n{WRITER}\n")  # the second one while the first is tried
    terminal.expect_question("Hub token, not shown: ")
    terminal.process.send_signal(2)
    assert terminal.close() == 130
    assert world.cloud.key not in terminal.text and WRITER not in terminal.text


def test_ctrl_c_writes_nothing(world: World, tmp_path: Path) -> None:  # noqa: F811
    env, path = empty(world, tmp_path)
    terminal = Terminal(env, name="init")
    terminal.expect_question("Shadeform key, not shown: ")
    terminal.type(f"{world.cloud.key}\n")
    terminal.expect_question("Hub token, not shown: ")
    terminal.process.send_signal(2)
    assert terminal.close() == 130 and path.read_text() == ""


def test_without_a_terminal_it_says_what_to_do(world: World, tmp_path: Path) -> None:  # noqa: F811
    env, path = empty(world, tmp_path)
    done = script("init", env=env)
    assert done.returncode == 2 and "copy .env.example" in done.stderr and path.read_text() == ""
