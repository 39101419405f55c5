"""`just launch` at a terminal after the yes: one live line, then the log, until Ctrl-C detaches."""

from __future__ import annotations

import signal

from nanolan.sim.world import World
from tests.support.launch_script_fixtures import Terminal, boxes_that_train, entries
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


def agreed(world: World, *words: str) -> Terminal:
    """A launch at a terminal whose offer was picked and agreed to."""
    t = Terminal(world.env(), "spend-limit=40", *words)
    for question, answer in (("[1-3] or 'q'", "1\n"), ("[y/N]", "y\n")):
        t.expect(question)
        t.type(answer)
    return t


def test_one_live_line_then_the_log_and_ctrl_c_detaches(world: World) -> None:
    t = agreed(world)
    t.expect("no heartbeat yet")
    with boxes_that_train(world):
        t.expect("it is ready: training")
        t.expect("Its log follows. Ctrl-C detaches")
        t.process.send_signal(signal.SIGINT)
        code = t.close()
    (entry,) = entries(world)
    assert code == 0 and f"detached; run {entry.plan.run_id} goes on" in t.text
    assert world.cloud.instances[0].status == "active" and not entry.gone
    assert "\r\x1b[K0:00 $" in t.text and "\r\x1b[Kit is ready" in t.text.replace("\r\n", "\n")


def test_the_hub_clients_bars_do_not_break_the_output(world: World) -> None:
    assert "HF_HUB_DISABLE_PROGRESS_BARS" not in world.env(), "as in real life"
    t = agreed(world, "--no-wait")
    assert t.close() == 0 and "?[A" not in t.text and "Processing Files" not in t.text
    between = t.text.split("[y/N]: y")[1].split("instance ")[0].strip().splitlines()
    assert len(between) == 1, "between yes and the instance: one line"
