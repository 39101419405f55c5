"""The README's two pictures, made from a rehearsal: what `just watch` shows while it trains, and the run's report.

just pictures               writes docs/pictures/watch.svg and report.png; needs Chromium, takes two minutes
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console

from nanolan.cli.command import KeyValueCommand, run
from nanolan.hub.client import Hub
from nanolan.redact import Secret
from nanolan.run.ledger import Ledger
from nanolan.settings.settings import ROOT
from nanolan.shadeform.client import Shadeform
from nanolan.sim.rehearsal import rehearse
from nanolan.sim.shadeform.instance import Delays
from nanolan.sim.world import REPO, World
from nanolan.status.live import Redrawn
from nanolan.status.status import look

FOLDER = ROOT / "docs/pictures"
STEP = " step 15/"  # far enough for a forecast
COLUMNS, LINES = 80, 24
WIDTH, HEIGHT = 1280, 1500  # of the report's picture, in pixels


@click.command(cls=KeyValueCommand)
def pictures() -> int:
    """Rehearse a run and draw it."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if browser is None:
        raise click.UsageError("Chromium is needed for the report's picture")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, World(Path(name), delays=Delays()) as world:
        rehearse(world, ["phase=sft"], None, lambda line: _draw_at(world, line), time.monotonic())
        (page,) = [path for path in world.hub.files(REPO) if path.endswith("/report.html")]
        report = Path(name, "report.html")
        report.write_bytes(world.hub.read(REPO, page))
        _screenshot(browser, report, FOLDER / "report.png")
    click.echo(f"written: {', '.join(p.name for p in sorted(FOLDER.iterdir()))}")
    return 0


def _draw_at(world: World, line: str) -> None:
    if STEP in line:
        (FOLDER / "watch.svg").write_text(watch_svg(world))


def watch_svg(world: World) -> str:
    """The live view of the world's runs on a terminal, as SVG."""
    ledger = Ledger(world.root / "nanolan-home")
    hub = Hub(world.hub.url, Secret(world.env()["HF_TOKEN"]))
    api = Shadeform(Secret(world.cloud.key), world.cloud.url)
    console = Console(
        record=True,
        width=COLUMNS,
        height=LINES,
        file=io.StringIO(),
        force_terminal=True,
        highlight=False,
    )
    screen = Redrawn(console)
    screen.seen.note(look(ledger, ledger.entries()[:1], api, lambda _: hub))
    console.print(screen.text())
    return console.export_svg(title="just watch", unique_id="watch")


def _screenshot(browser: str, page: Path, target: Path) -> None:
    subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--hide-scrollbars",
            f"--window-size={WIDTH},{HEIGHT}",
            f"--screenshot={target}",
            page.as_uri(),
        ],
        check=True,
        timeout=60,
        capture_output=True,
    )


if __name__ == "__main__":
    run(pictures)
