"""What is fast and what is not: each figure beside a baseline measured in the same run. Nothing is asserted.

just bench                  all but train and scale (about 3 minutes)
just bench help status      only these
just bench train            the trainer beside the plain path, on this machine's CPU (about 5 minutes)
just bench train --against ../my-nanochat   beside a checkout's own scripts (about 10 minutes)
just bench scale            what fewer or more GPUs would cost, by a model of docs/scale.md
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from nanolan.cli.command import KeyValueCommand, TypedPath, run
from nanolan.settings.settings import ROOT
from tests.bench import status as bench_status
from tests.bench.scale import scale

TEN_LINES = """
import click
@click.command()
@click.option("--phase", default="sft", help="what to train")
@click.option("--gpu", default="B200", help="which GPU")
@click.option("--num-gpus", default=8, help="how many")
def launch(phase, gpu, num_gpus):
    '''A click program of ten lines.'''
    print(phase, gpu, num_gpus)
launch()
"""
MEGABYTES = 300


@click.command(cls=KeyValueCommand)
@click.argument("names", nargs=-1)
@click.option(
    "--against",
    type=TypedPath(),
    metavar="CHECKOUT",
    help="with train: that nanochat checkout's own scripts beside ours",
)
@click.option(
    "--as-is", is_flag=True, help="with --against: leave its Newton-Schulz in bf16 on the CPU"
)
def bench(names: tuple[str, ...], against: str | None, as_is: bool) -> int:
    """Print figures as ratios against a baseline of the same run.

    Without names: all but train, which takes about 5 minutes, and scale, which measures nothing.
    """
    if against and names != ("train",):
        raise click.UsageError("--against goes with train: just bench train --against CHECKOUT")
    if as_is and not against:
        raise click.UsageError("--as-is goes with --against")
    unknown = set(names) - set(BENCHES)
    if unknown:
        raise click.UsageError(
            f"no bench called {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}"
        )
    for name in names or [name for name in BENCHES if name not in ASKED_FOR]:
        said = training(against, as_is) if against else BENCHES[name]()
        for text in [said] if isinstance(said, str) else said:
            click.echo(f"{name:<9} {text}")
    return 0


def seconds(
    command: list[str], env: dict[str, str] | None = None, cwd: Path = ROOT, times: int = 1
) -> float:
    """The median wall time of a command that must succeed."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(command, env=env, cwd=cwd, check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def help_ratio() -> str:
    with tempfile.TemporaryDirectory() as temp:
        base = Path(temp) / "ten.py"
        base.write_text(TEN_LINES)
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        ours, theirs = (
            [sys.executable, str(p), "--help"] for p in (ROOT / "scripts/launch.py", base)
        )
        for command in (ours, theirs):
            seconds(command, env)
        pairs = [(seconds(ours, env), seconds(theirs, env)) for _ in range(9)]
    ratio = statistics.median(a / b for a, b in pairs)
    return f"launch --help {ratio:.2f} x a click program of ten lines ({pairs[0][0] * 1000:.0f} ms; goal 1.5 x)"


def first_dry_run() -> str:
    with tempfile.TemporaryDirectory() as temp:
        clone = Path(temp) / "nanolan"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        env = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("SHADEFORM", "HF_", "VIRTUAL_ENV"))
        }
        env |= {"NANOLAN_ENV_FILE": os.devnull, "NANOLAN_HOME": temp, "HF_HOME": temp}
        first = seconds(["./just", "dry-run"], env, clone)
        again = seconds(["./just", "dry-run"], env, clone)
        venv = seconds([sys.executable, "-m", "venv", f"{temp}/venv"])
    return f"first ./just dry-run {first:.1f} s ({first / venv:.1f} x `python -m venv` alone; goal 20 s), then {again:.1f} s"


def rehearsals() -> str:
    torchrun = seconds([sys.executable, "-c", "import torch.distributed.run"], times=3)
    sft, both = (
        seconds([sys.executable, "scripts/rehearse.py", f"phase={p}"]) for p in ("sft", "mid+sft")
    )
    return (
        f"sft {sft:.0f} s (goal 60), mid+sft {both:.0f} s (goal 90); {sft / torchrun:.1f} x and {both / torchrun:.1f} x "
        f"importing torchrun ({torchrun:.1f} s)"
    )


def streaming() -> str:
    """Peak memory of the transfer of a large file against that of a small one."""
    from nanolan.sim.hub.server import HubServer

    peaks = {}
    with tempfile.TemporaryDirectory() as temp:
        hub = HubServer(Path(temp) / "hub", xet=True).start()
        hub.put("me/bench", {"x": b"x"})
        for size in (10, MEGABYTES):
            with open(Path(temp) / "model_000001.pt", "wb") as f:
                for _ in range(size):
                    f.write(os.urandom(1 << 20))
            for kind in ("upload", "download"):
                peaks[kind, size] = _transfer_peak_mb(hub.url, kind, Path(temp))
            shutil.rmtree(Path(temp) / "t", ignore_errors=True)
        hub.stop()
    return "; ".join(
        f"{kind} of {MEGABYTES} MB peaks at {peaks[kind, MEGABYTES]:.0f} MB, "
        f"{peaks[kind, MEGABYTES] / peaks[kind, 10]:.2f} x that of 10 MB"
        for kind in ("upload", "download")
    )


def _transfer_peak_mb(url: str, kind: str, folder: Path) -> float:
    import msgspec
    import psutil

    from nanolan.hub.transfer import Job
    from nanolan.sim.hub.state import WRITER

    name = "model_000001.pt"
    job = Job(
        kind,
        url,
        "me/bench",
        "model",
        "main",
        str(folder if kind == "upload" else folder / "down"),
        (name,) if kind == "upload" else (f"t/{name}",),
        "t",
        "bench",
        token=WRITER,
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "nanolan.hub.transfer"],
        stdin=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    )
    peak, process = 0, psutil.Process(child.pid)
    assert child.stdin  # noqa: S101
    child.stdin.write(msgspec.json.encode(job))
    child.stdin.close()
    while child.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.01)
    if child.wait():
        raise click.ClickException(f"{kind} failed")
    return peak / 1e6


def state_uploads() -> str:
    """What saving and uploading states costs the training beside them: steps a second and CPU seconds, with and without."""
    speeds, cpus = {}, {}
    for often in (False, True):
        words = ["eval=none", *(["save-minutes=0.03", "upload-minutes=0.03"] if often else [])]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        speeds[often] = _steps_per_s(words)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus[often] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (
        f"a state saved and uploaded every 2 s: {speeds[True] / speeds[False]:.2f} x the steps a second, "
        f"{cpus[True] / cpus[False]:.2f} x the CPU seconds of the whole rehearsal ({cpus[False]:.0f} s without)"
    )


def _steps_per_s(words: list[str]) -> float:
    """Steps a second of a rehearsal of 150 steps of sft, by its own metrics."""
    from nanolan.sim.rehearsal import rehearse
    from nanolan.sim.scenarios import LONG, Scenario
    from nanolan.sim.shadeform.instance import Delays
    from nanolan.sim.world import World

    with (
        tempfile.TemporaryDirectory() as temp,
        World(Path(temp), cache=ROOT / ".rehearsal/cache", delays=Delays()) as world,
    ):
        plain = Scenario("nothing goes wrong", recipe=LONG)
        outcome = rehearse(world, words, plain, lambda line: None, time.monotonic(), quiet=True)
        if outcome.exit_code:
            raise click.ClickException("the rehearsal failed")
        rows = [
            json.loads(line)
            for path in world.root.glob("cloud/boxes/*/nanolan/trainer/metrics.jsonl")
            for line in path.read_text().splitlines()
        ]
    times = [row["t"] for row in rows if "loss" in row]
    return (len(times) - 1) / (times[-1] - times[0])


REPORT = """
import sys
from pathlib import Path
from nanolan.report.curves import read_metrics
from nanolan.report.page import render_page
from nanolan.plan import read_plan
from nanolan.run.record import read_receipt
from nanolan.report.data import report_data_of
plan, receipt, metrics = ((Path(sys.argv[1]) / name).read_bytes() for name in ("plan.json", "receipt.json", "metrics.jsonl"))
print(len(render_page(report_data_of(read_plan(plan), read_receipt(receipt), "", read_metrics(metrics), (), None))))
"""


def long_report() -> str:
    """The report of a run, from what is in its folder to HTML: of one phase with 20,000 steps, and of three."""
    sys.path.insert(0, str(ROOT))
    from nanolan.run.record import to_json
    from tests.support.report_fixtures import PLAN, RECEIPT, lines, rows

    drawn = seconds(
        [sys.executable, "-c", "import matplotlib.figure, matplotlib.backends.backend_svg"], times=3
    )
    said = []
    for phases in (("mid",), ("mid", "sft", "rl")):
        with tempfile.TemporaryDirectory() as temp:
            for name, data in (
                ("plan.json", PLAN.to_json()),
                ("receipt.json", to_json(RECEIPT)),
                ("metrics.jsonl", lines([row for p in phases for row in rows(20_000, p)])),
            ):
                (Path(temp) / name).write_bytes(data)
            command = [sys.executable, "-c", REPORT, temp]
            size = int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
            taken = seconds(command, times=3)
        said.append(
            f"{len(phases)} x 20,000 steps: {taken:.1f} s, {taken / drawn:.1f} x importing matplotlib, {size / 1e6:.2f} MB"
        )
    return f"{'; '.join(said)} (goal for 20,000: 5 s, 3 MB)"


def startup() -> str:
    """The startup script of a plan for all phases with all keys, and the programs in it as they lie in cloud/."""
    sys.path.insert(0, str(ROOT))
    from nanolan.launch.request import CLOUD, MAX_SCRIPT_BYTES, create_body, startup_script
    from tests.launch.test_request import KEYS, real_plan

    plan = real_plan()
    script = startup_script(plan, KEYS, "f" * 40)
    sent = create_body(plan, script)["launch_configuration"]["script_configuration"][
        "base64_script"
    ]
    files = sum((CLOUD / name).stat().st_size for name in ("boot.sh", "rescue.py")) + len(
        plan.to_json()
    )
    return (
        f"startup script {len(script):,} bytes (goal {MAX_SCRIPT_BYTES:,}), {len(sent):,} in base64; "
        f"{len(script) / files:.2f} x boot.sh, rescue.py and the plan as they are ({files:,})"
    )


def training(against: str | None = None, as_is: bool = False) -> Iterator[str]:
    """The trainer's own bench, line by line."""
    command = [sys.executable, "-m", "tests.bench.trainer"]
    if against:
        command += ["--against", against, *(["--as-is"] if as_is else [])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout  # noqa: S101
        yield from (text.rstrip() for text in child.stdout)
    if child.returncode:
        raise click.ClickException("the trainer's bench failed")


BENCHES: dict[str, Callable[[], str | Iterator[str]]] = {
    "help": help_ratio,
    "first": first_dry_run,
    "rehearse": rehearsals,
    "status": bench_status.status,
    "watch": bench_status.watch,
    "heartbeat": bench_status.heartbeat,
    "stream": streaming,
    "states": state_uploads,
    "report": long_report,
    "script": startup,
    "train": training,
    "scale": scale,
}
ASKED_FOR = {"train", "scale"}  # not among all


if __name__ == "__main__":
    run(bench)
