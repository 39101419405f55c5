"""One rented machine of a world: its disk, and the real box program and rescue program on it, which die and come back."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import resource
import shlex
import shutil
import types
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanolan.box import main as box_program
from nanolan.box.context import BoxDeps
from nanolan.box.probation import Trouble
from nanolan.box.sandbox import trainer_folder
from nanolan.box.watch.periodic import Periodic
from nanolan.hub import transfer
from nanolan.hub.client import Hub
from nanolan.hub.transfer import Job, commit_step, run_transfer
from nanolan.launch.request import unpack
from nanolan.plan import read_plan
from nanolan.redact import Secret
from nanolan.report.final import rendered
from nanolan.settings.settings import ROOT
from nanolan.shadeform.client import Shadeform
from nanolan.sim.shadeform.instance import Instance
from nanolan.times import now_utc
from tests.support.life_clock import Actor
from tests.support.life_trainer import FATES, Trainer, run_trainer

if TYPE_CHECKING:
    from tests.support.life_world import World

UPLOAD_S, SLICES = (
    40.0,
    8,
)  # of a checkpoint; the child process is asked so often whether it shall give up
RESTART_S = 5.0  # systemd's
BOOT_S = 30.0  # from the startup script to the box program
LOG = "var/log/lanbot-training.log"


class Box:
    """A machine from its first boot to its end."""

    def __init__(self, world: World, instance: Instance) -> None:
        self.world, self.clock, self.instance, self.id = world, world.clock, instance, instance.id
        self.root = world.root / f"box{instance.number}"
        self.state, self.work = self.root / "root/.nanolan", self.root / "nanolan"
        script = base64.b64decode(instance.script or "").decode()
        values = {
            name: shlex.split(value)[0]
            for name, value in re.findall(r"^([A-Z0-9_]+)=(.*)$", script, re.M)[:12]
        }
        self.unpacked = {
            name: unpack(values[key])
            for name, key in (
                ("facts.json", "FACTS"),
                ("secrets.json", "SECRETS"),
                ("rescue.py", "RESCUE"),
            )
        }
        self.unpacked["plan.json"] = world.hub.file(f"{values['RUN_URL']}/plan.json")
        self.plan = read_plan(self.unpacked["plan.json"])
        self.secrets: dict[str, str] = json.loads(self.unpacked["secrets.json"])
        self.deadline = float(values["DEADLINE"])
        self.on = False
        self.boots = 0
        self.booted_at = self.started_at = 0.0  # newest: of the machine, of the box program
        self.gpu_lost, self.rotten_at = False, -1e9
        self.full_until = self.full_at = -1e9  # no file gets a byte until then; since when
        self.ahead_s = 0.0  # of this machine's clock
        self.fate = ""  # of the next trainer
        self.trainers: list[Trainer] = []
        self.finished: set[str] = set()  # phases whose final checkpoint was whole on this disk
        self.said = ""  # what the box program and the rescue program said, trainers left out
        self.ends: list[str] = []  # how the box program ended: "", or its last error

    # ---- power

    def boot(self) -> None:
        """boot.sh, up to its last act."""
        self.on, self.boots, self.booted_at = True, self.boots + 1, self.clock.now
        for folder in (self.state, self.work, self.root / "var/log"):
            folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.unpacked.items():
            (self.state / name).touch(0o600)
            (self.state / name).write_bytes(data)
        if not (self.state / "booted").exists():
            (self.state / "booted").write_text(f"{self.clock.now:.0f}\n")
        self.clock.spawn(self._deadman, self, "deadman")
        self.clock.at(self.clock.now + BOOT_S, partial(self._start, self.boots))

    def off(self) -> None:
        """Every program ends, the disk stays as it is."""
        self.on = False
        self.end(lambda actor: True)

    def reboot(self, after_s: float) -> None:
        self.off()
        self.clock.at(
            self.clock.now + after_s, lambda: self.boot() if self.world.has_power(self) else None
        )

    def crash(self) -> None:
        """kill -9 of the box program; trainers and the dead man's timer live on."""
        boots = self.boots
        self.end(lambda actor: actor.program == "box")
        self.clock.at(self.clock.now + RESTART_S, partial(self._start, boots))

    def crash_soon(self, lines: int, thread: int) -> None:
        """The same so many lines of nanolan from now, in one of its threads."""
        threads = [
            a for a in self.clock.actors if a.box is self and a.program == "box" and not a.done
        ]
        if lines and threads:
            threads[thread % len(threads)].lines_left = lines
        else:
            self.crash()

    def end(self, doomed: Callable[[Actor], bool]) -> None:
        """kill -9: nothing that dies touches the disk any more."""
        self.freeze()
        self.clock.kill(lambda actor: actor.box is self and doomed(actor))
        self.thaw()

    def freeze(self) -> None:
        if self.root.exists() and not self._away.exists():
            self.root.replace(self._away)

    def thaw(self) -> None:
        if self._away.exists():
            shutil.rmtree(self.root, ignore_errors=True)
            self._away.replace(self.root)

    @property
    def _away(self) -> Path:
        return self.root.with_name(self.root.name + ".frozen")

    def rot(self, which: int, at: int) -> None:
        """A byte of one of the trainer's saved files changes."""
        files = sorted(self.work.glob("out/*/*/step-*/*"), reverse=True)
        if files:
            path = files[which % len(files)]
            data = bytearray(path.read_bytes())
            data[at % len(data)] ^= 1
            path.unlink()  # not under a second name, too
            path.write_bytes(data)
            self.finished.clear()
            self.rotten_at = self.clock.now

    # ---- programs

    def _start(self, boots: int) -> None:
        if self.on and boots == self.boots and not self.runs("box"):
            self.started_at = self.clock.now
            self._unlock()
            self.world.new_process(self, "box")
            self.clock.spawn(self._program, self, "box")

    def _unlock(self) -> None:
        """Release the lock of a killed program, as the kernel does: here it is a thread, which may not have closed its files."""
        for fd in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                if fd.readlink() == self.work:
                    fcntl.flock(int(fd.name), fcntl.LOCK_UN)

    def runs(self, program: str) -> bool:
        return any(a.box is self and a.program == program and not a.done for a in self.clock.actors)

    def _program(self) -> None:
        """cloud/train.py."""
        try:
            box_program.main(self.state, self.work, self.deps())
            self.ends.append("")
        except Exception as e:
            self.ends.append(f"{type(e).__name__}: {e}")
            rescue = self._rescue()
            rescue.give_up(
                json.loads((self.state / "plan.json").read_bytes()),
                self.secrets,
                f"the box program failed: {self.ends[-1]}",
                **self._world_of_rescue(),
            )
        self.world.box_left(self)

    def _deadman(self) -> None:
        """rescue.armed()."""
        c, rescue = self.clock, self._rescue()
        rescue.wait_until(
            lambda: rescue.deadline(self.deadline),
            lambda: self._provider_time(rescue),
            wall=lambda: c.now + self.ahead_s,
            clock=c.monotonic,
            sleep=c.sleep,
        )
        if rescue.keyless(self.secrets):
            rescue.power_off()
            return
        rescue.delete_self(
            json.loads(self.unpacked["plan.json"]),
            self.secrets,
            rescue.POWER_OFF_S,
            **self._world_of_rescue(),
        )

    def _provider_time(self, rescue: Any) -> float | None:
        """rescue.provider_time()."""
        try:
            answer = self.world.cloud.request(
                "GET", f"{self.plan.shadeform_api}/instances/types", data=None, headers={}
            )
        except OSError:
            return None
        return float(rescue.parsedate_to_datetime(answer.headers["Date"]).timestamp())

    def _rescue(self) -> Any:
        """cloud/rescue.py as it lies on this machine."""
        module = types.ModuleType("rescue")
        module.__file__ = str(self.state / "rescue.py")
        exec(compiled(self.unpacked["rescue.py"]), vars(module))
        return module

    def _world_of_rescue(self) -> dict[str, Any]:
        return {"ask": self.world.ask, "clock": self.clock.monotonic, "sleep": self.clock.sleep}

    # ---- trainers

    def train(self, job: dict[str, Any]) -> Trainer:
        phase = str(job["phase"])
        if any(t.alive for t in self.trainers):
            self.world.broken(f"{phase}: a second trainer was started beside a living one")
        if phase in self.finished and not job.get("evaluate"):
            self.world.broken(f"{phase} is trained again although its final checkpoint was whole")
        self.trainers.append(Trainer(self, job))
        self.trainers[-1].fate, self.fate = self.fate, ""
        return self.trainers[-1]

    def kill_trainers(self, run_id: str) -> int:
        alive = [t for t in self.trainers if t.alive]
        if alive:
            self.clock.aside(lambda: self.end(lambda actor: actor.program == "trainer"))
        return len(alive)

    def fail_trainer(self, how: str, lines: int) -> None:
        """One of FATES, for the trainer that runs or the next one; else it is killed, now or in a save."""
        trainer = next((t for t in self.trainers if t.alive), None)
        if how in FATES and trainer:
            trainer.fate = how
        elif how in FATES:
            self.fate = how
        elif how == "in a save" and trainer:
            trainer.actor.lines_left = lines
        elif trainer:
            trainer.code = 1 if how == "a rank dies" else -9
            with self.world.ears():
                self.end(lambda actor: actor is trainer.actor)

    # ---- the world outside, as the box program gets it

    def deps(self) -> BoxDeps:
        c, w = self.clock, self.world
        hub = partial(
            Hub, sleep=c.sleep, clock=c.monotonic, api=w.hub, get=w.hub.get, stream=w.hub.stream
        )
        return BoxDeps(
            trainer=partial(run_trainer, self),
            kill=self.kill_trainers,
            inspect=lambda plan, work, **_: w.gpu_problem(self),
            confine=self.confine,
            collective=lambda *args, **how: Trouble(""),
            transfer=partial(
                run_transfer,
                attempt=partial(self._transfer, hub),
                clock=c.monotonic,
                sleep=self._doze,
            ),
            api=partial(Shadeform, session=w.cloud, sleep=c.sleep, jitter=lambda: 0.5),
            hub=hub,
            clock=c.monotonic,
            now=now_utc,
            sleep=c.sleep,
            ticker=partial(Periodic, thread=c.thread, event=c.event),
            pool=c.pool,
            probes={},
            render=lambda what, files, most_s: rendered(what, files),
        )

    def confine(self, work: Path) -> tuple[None, str]:
        trainer_folder(work).mkdir(exist_ok=True)
        return None, "nobody is root here"

    def _doze(self, seconds: float) -> None:
        self.clock.sleep(max(seconds, 0.5))  # a tenth of a second is nothing here

    def _transfer(
        self, hub: Callable[..., Hub], job: Job, give_up: Callable[[], str], stall_s: float
    ) -> str:
        """The child process of nanolan.hub.transfer: "" or its last words."""
        for _ in range(SLICES if job.kind == "upload" else 1):
            self.clock.sleep(UPLOAD_S / SLICES)
            if reason := give_up():
                return reason
        try:
            if job.kind == "upload":
                commit_step(job, hub(job.endpoint, Secret(job.token), patience_s=0))
            else:
                self._download(job)
        except Exception as e:
            return f"{type(e).__name__}: {e}".replace(job.token, "***")[: transfer.ERROR_CHARS]
        return ""

    def _download(self, job: Job) -> None:
        for path in job.files:
            answer = self.world.hub.get(f"{job.endpoint}/{job.repo}/resolve/{job.revision}/{path}")
            if answer.status_code != 200:
                raise OSError(f"HTTP {answer.status_code} for {path}")
            target = Path(job.folder) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(answer.content)

    # ---- its log

    def hear(self, program: str, text: str) -> None:
        """A piece of some program's output."""
        if program != "trainer":
            self.said += f"{self.clock.now - self.instance.created_at:.0f} s: {text}"
        if self.on and not self._away.exists():
            with (
                contextlib.suppress(OSError),
                open(self.root / LOG, "a") as f,
            ):  # nanolan.files.Log
                f.write(text)

    def fill(self, seconds: float) -> None:
        """The disk takes nothing for so long."""
        self.full_at, self.full_until = self.clock.now, self.clock.now + seconds

    def enter(self) -> None:
        """What its programs find: the environment, and a disk that takes nothing (EFBIG, by the kernel) or all."""
        os.environ["BOX_ROOT"] = str(self.root)
        limit_files(0 if self.clock.now < self.full_until else resource.RLIM_INFINITY)

    def leave(self) -> None:
        limit_files(resource.RLIM_INFINITY)


def limit_files(size: int) -> None:
    """How many bytes a file may get from this process."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@lru_cache(maxsize=4)
def compiled(source: bytes) -> types.CodeType:
    return compile(source, str(ROOT / "cloud/rescue.py"), "exec")
