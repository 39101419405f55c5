"""A rented machine of a test's own: the real box program as a process, against a local Shadeform and a local Hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from nanolan.checkpoint.manifest import save_whole
from nanolan.launch.request import create_body
from nanolan.phases import PHASES
from nanolan.plan import Code, Pinned, PinnedFile, Plan, Rented, new_run_id
from nanolan.settings.settings import ROOT
from nanolan.sim.box import MARK, kill_until_none, marked
from nanolan.sim.hub.server import HubServer
from nanolan.sim.marker import MARKER, TWIST
from nanolan.sim.nvidia_smi import Gpus, nvidia_smi
from nanolan.sim.shadeform.instance import Delays
from nanolan.sim.shadeform.sample_offers import SAMPLE
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc
from tests.support.forked_python import LAPTOP, Program, forked

REPO, DATA, KEY = "me/lanbot-checkpoints", "openai/gsm8k", f"sim-key-{MARKER}{TWIST}"
TOKEN = f"hf_stand_in_{MARKER}"
WRITERS = {TOKEN: {"name": "me", "orgs": [], "role": "write"}}
SEED = {
    "mid_checkpoints/d20/model_000010.pt": b"a model " * 100,
    "mid_checkpoints/d20/meta_000010.json": b"{}",
    "base_checkpoints/d20/model_000009.pt": b"a base " * 100,
    "base_checkpoints/d20/meta_000009.json": b"{}",
    "tokenizer/tokenizer.pkl": b"a tokenizer",
    "identity_conversations.jsonl": b"[]\n",
}
ROWS = {"main/train-00000-of-00001.parquet": b"rows " * 50}
AT_ONCE = Delays(creating_s=0, pending_provider_s=0, pending_s=0, deleting_s=0.3)


def pin(
    hub: HubServer, repo: str, kind: str = "model", only: Callable[[str], bool] = lambda path: True
) -> Pinned:
    """What a launch would pin of a repo's newest revision."""
    loaded = hub.store.load(kind, repo)
    assert loaded
    files = [
        PinnedFile(path, b.size, b.sha256 if b.lfs else None, b.oid)
        for path, b in sorted(hub.files(repo, kind).items())
        if only(path) and path != ".gitattributes"
    ]
    return Pinned(repo, kind, loaded.at("main").oid, tuple(files))


def make_plan(hub_url: str, api: str, **fields: Any) -> Plan:
    """A plan for one B200-less machine of eight GPUs: $1 an hour, $10 limit, ten hours."""
    now = now_utc()
    base: dict[str, Any] = dict(
        run_id=new_run_id(),
        run_name="lanbot-v3",
        owner="0badcafe",
        created_at=iso(now),
        deadline=iso(now + timedelta(hours=10)),
        limit_cents=1000,
        phases=("sft",),
        model_tag="d20",
        output_tag="d20",
        hf_repo=REPO,
        runs_repo=REPO,
        hf_endpoint=hub_url,
        shadeform_api=api,
        offer=Rented(
            "hyperstack", "canada-1", "H100x8", "H100", 8, 80, 100, "ubuntu22.04_cuda12.8_shade_os"
        ),
        code=Code("0" * 40, "0" * 64, 1, False),
        inputs=(),
        datasets=(),
        wandb_project="lanbot",
        device="cpu",
        processes=2,
        trainer="tests.support.standin_trainer",
        setup="light",
        min_free_gb=1,
    )
    return Plan(**(base | fields))


class Box:
    """One machine: its servers, its folder, and the box program on it."""

    def __init__(
        self,
        root: Path,
        *,
        age_s: float = 0.0,
        life_s: float = 36_000.0,
        gpus: int = 8,
        hub: HubServer | None = None,
        **fields: Any,
    ) -> None:
        self.root, self.mark = root / "box", f"boxtest-{os.getpid()}-{root.name}"
        self._own_hub = hub is None
        self.hub = hub or HubServer(root / "hub", tokens=WRITERS)
        self.cloud = ShadeformServer(root / "cloud", key=KEY, boxes=False, delays=AT_ONCE)
        self._age_s, self._life_s, self._gpus, self._fields = age_s, life_s, gpus, fields
        self._servers = ExitStack()
        self.started: list[subprocess.Popen[bytes] | Program] = []

    def __enter__(self) -> Box:
        self._servers.enter_context(self.cloud)
        if self._own_hub:
            self._servers.enter_context(self.hub)
            self.hub.put(REPO, SEED)
            self.hub.put(DATA, ROWS, typ="dataset", private=False)
        self.plan = self._plan()
        self._rent()
        self._set_up()
        return self

    def __exit__(self, *exc: object) -> None:
        self.power_off()
        for child in self.started:
            child.wait()
        self._servers.close()

    def _plan(self) -> Plan:
        born = now_utc() - timedelta(seconds=self._age_s)
        return make_plan(
            self.hub.url,
            self.cloud.url,
            created_at=iso(born),
            deadline=iso(born + timedelta(seconds=self._life_s)),
            **{
                "inputs": (pin(self.hub, REPO, only=SEED.__contains__),),
                "datasets": (pin(self.hub, DATA, "dataset"),),
            }
            | self._fields,
        )

    def _rent(self) -> None:
        """Create the plan's machine, `age_s` ago, at the plan's price."""
        offer = next(
            o for o in SAMPLE if o["cloud"] == "hyperstack" and o["configuration"]["num_gpus"] == 8
        )
        where = next(a["region"] for a in offer["availability"] if a["available"])
        body = create_body(self.plan, "#!/bin/bash\n") | {
            "cloud": "hyperstack",
            "region": where,
            "shade_instance_type": offer["shade_instance_type"],
            "os": offer["configuration"]["os_options"][0],
        }
        self.cloud.switch("price_differs", self.plan.offer.hourly_cents, times=1)
        self.id = self.cloud.account.create(body)["id"]
        self.instance.created_at -= self._age_s

    def _set_up(self) -> None:
        """The machine as it is rented."""
        self.state, self.work = self.root / "root/.nanolan", self.root / "nanolan"
        smi = self.root / "usr/bin/nvidia-smi"
        smi.parent.mkdir(parents=True)
        smi.write_text(
            nvidia_smi(
                Gpus(self._gpus, "NVIDIA H100 80GB HBM3", 81559, "9.0", "570.195.03"), self.id
            )
        )
        smi.chmod(0o755)

    def unpack(self, downloaded: bool = True) -> None:
        """What boot.sh has done when the box program starts; with the inputs, as if by an earlier life of it."""
        for folder in (self.state, self.work, self.root / "var/log"):
            folder.mkdir(parents=True, exist_ok=True)
        inputs = {f"model/{path}": data for path, data in SEED.items()} | {
            f"data/{DATA}/{path}": data for path, data in ROWS.items()
        }
        for path, data in inputs.items() if downloaded else ():
            (self.work / path).parent.mkdir(parents=True, exist_ok=True)
            (self.work / path).write_bytes(data)
        (self.state / "plan.json").write_bytes(self.plan.to_json())
        key = {"SHADEFORM_API_KEY": KEY} if self.plan.self_delete else {}
        (self.state / "secrets.json").write_text(json.dumps(key | {"HF_TOKEN": TOKEN}))
        (self.state / "secrets.json").chmod(0o600)
        (
            self.state / "report-tried"
        ).touch()  # a second of CPU for each box; tests/promises/test_road.py looks at one
        shutil.copy(ROOT / "cloud/rescue.py", self.state)

    def trained(self, phase: str = "sft", final: bool = True) -> None:
        """A whole step 5 in the phase's output folder, as if from an earlier life of the box program."""

        def write(folder: Path) -> None:
            (folder / "model_000005.pt").write_bytes(os.urandom(1 << 16))
            (folder / "meta_000005.json").write_text("{}")

        save_whole(
            self.work / "trainer/out" / PHASES[phase].output_dir / "d20",
            5,
            write,
            run_id=self.plan.run_id,
            phase=phase,
            final=final,
        )

    # ---- its programs

    def program(self, *command: str, cwd: Path = Path("/")) -> subprocess.Popen[bytes]:
        """Start a program on the machine, in an environment of its own; its output goes to the log."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            child = subprocess.Popen(
                command,
                cwd=cwd,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(child)
        return child

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/bin:/bin",
            "BOX_ROOT": str(self.root),
            MARK: self.mark,
            "HOME": str(self.root / "root"),
            "LC_ALL": "C.UTF-8",
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(self) -> Program:
        """Start the box program as boot.sh does."""
        if not self.state.is_dir():
            self.unpack()
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        words = [str(ROOT / "cloud/train.py"), str(self.state), str(self.work)]
        child = forked(LAPTOP).start(words, ROOT, self._environment(), self.log_file)
        self.started.append(child)
        return child

    def power_off(self) -> None:
        """Kill every program of the machine at once."""
        for child in self.started:
            child.kill()
        kill_until_none(lambda: marked({self.mark}))

    def run(self, timeout_s: float = 60.0) -> Box:
        """Start the box program and wait for its end, which must be exit 0."""
        child = self.start()
        assert child.wait(timeout_s) == 0, self.log()
        return self

    def wait_for(self, text: str, timeout_s: float = 30.0) -> None:
        """Until the log holds `text`."""
        until(lambda: text in self.log(), timeout_s, lambda: f"no {text!r} in:\n{self.log()}")

    # ---- looking

    @property
    def instance(self) -> Any:
        return self.cloud.instance(self.id)

    @property
    def log_file(self) -> Path:
        return self.root / "var/log/lanbot-training.log"

    @property
    def deleted(self) -> bool:
        """Asked for and done."""
        return self.instance.why == "asked"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.is_file() else ""

    def files(self) -> dict[str, Any]:
        return self.hub.files(REPO)

    def receipt(self) -> dict[str, Any]:
        return json.loads(self.hub.read(REPO, f"{self.plan.folder}/receipt.json"))

    def uploaded_log(self, verdict: str) -> str:
        """The log on the Hub, by its path for that verdict (success or error)."""
        return self.hub.read(REPO, f"logs/{verdict}-{self.plan.instance_name}.log").decode()

    def trainers(self) -> list[psutil.Process]:
        """The living processes of the trainer."""
        return [
            p for p in marked({self.mark}) if environ(p).get("NANOLAN_TRAINER") == self.plan.run_id
        ]

    def holds(self, folder: str, step: int) -> bool:
        """Whether the Hub holds the whole step under `folder`, by its own manifest there."""
        files = self.files()
        if f"{folder}/manifest.json" not in files:
            return False
        manifest = json.loads(self.hub.read(REPO, f"{folder}/manifest.json"))
        return (
            manifest["step"] == step
            and manifest["run_id"] == self.plan.run_id
            and all(
                hashlib.sha256(self.hub.read(REPO, f"{folder}/{f['path']}")).hexdigest()
                == f["sha256"]
                for f in manifest["files"]
            )
        )


def environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def until(
    true: Callable[[], Any],
    timeout_s: float = 30.0,
    why: Callable[[], str] = lambda: "it never came true",
) -> None:
    """Wait until `true()`."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, why()
        time.sleep(0.05)


def no_box_left() -> Iterator[None]:
    """A module's fixture: at its end no process of these boxes lives."""
    yield
    left = [
        p
        for p in psutil.process_iter()
        if environ(p).get(MARK, "").startswith(f"boxtest-{os.getpid()}-")
    ]
    assert not left, f"left behind: {[(p.pid, p.cmdline()) for p in left]}"
