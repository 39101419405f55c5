"""What must be true of a world at any moment: nanolan's invariants, seen from outside, by other eyes than nanolan's own where it can be."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path

from nanolan.box.sandbox import trainer_folder
from nanolan.checkpoint.manifest import FileEntry, Manifest, parse_manifest
from nanolan.errors import MayBeBilling, NanolanError
from nanolan.hub.proof import prove
from nanolan.money import dollars
from nanolan.phases import PHASES
from nanolan.plan import Plan, read_plan
from nanolan.run.ledger import Entry
from nanolan.sim.shadeform.instance import Instance
from nanolan.status.one_run import phase_state
from nanolan.times import parse_time
from tests.support.core_fixtures import forms_of
from tests.support.life_box import Box
from tests.support.life_cloud import Request
from tests.support.life_hub import Commit, tree_of
from tests.support.life_laptop import KEY, LIMIT_CENTS, REPO, TEND_S, TOKEN, Outcome
from tests.support.life_trainer import files_of
from tests.support.life_world import World, instance_of

NOTHING = (-1, -1)
SECRET = re.compile(
    "|".join(sorted(re.escape(form) for secret in (KEY, TOKEN) for form in forms_of(secret)))
)
ACKNOWLEDGED = re.compile(
    r"phase (\w+): (?:proven on the Hub: (\S+) step (\d+)|state of step (\d+) proven)"
)
FOLLOW_S = (
    9 * 60.0
)  # a state of the machine's disk is on the Hub by then: 5 minutes, its upload, and some air
ROTTEN_S = 600.0  # what rots while it is sent arrives rotten
NOT_SAVED = re.compile(r"(\w+) step (\d+)")
QUIET_S = 20 * 60.0  # after so long without trouble no backstop may fire
POLL_S, RETRY_S = 20.0, 35.0  # the meter's; the longest wait between two deletes
LOOKS = 12  # at the account, after whatever trouble it has left
EARLY_S = 3.0  # a date has whole seconds


class Laws:
    """Looks at what is new since the last check."""

    def __init__(self, world: World) -> None:
        self.w = world
        world.heard.append(self._heard)
        world.left.append(self._left)
        self.best: dict[
            tuple[str, str], tuple[int, int]
        ] = {}  # (run, phase) -> (is final, step), proven on the Hub
        self.spoilt = dict[
            tuple[str, str], tuple[int, int]
        ]()  # what a Hub that lies has spoilt since -> what it held
        self.plans: dict[str, Plan] = {}  # by the name of the machine
        self.grace_s = 0.0  # how much longer faults may keep a machine
        self._commits = self._outcomes = self._requests = 0
        self._said: dict[str, int] = {}
        self._ended: set[str] = set()

    def check(self) -> None:
        """Every law, now; AssertionError names the broken one."""
        assert not self.w.problems, self.w.problems
        self._hub()
        self._one_machine_a_run()
        self._gone_was_seen()
        self._acknowledged_is_there()
        self._bounded_bill()
        self._states_follow()
        self._no_secret()
        for outcome in self.w.outcomes[self._outcomes :]:
            self._told(outcome)
        self._outcomes = len(self.w.outcomes)
        assert not self.w.problems, self.w.problems

    # ---- I1 to I4: machines

    def _one_machine_a_run(self) -> None:
        for plan in self.w.plans:
            alive = [i.id for i in instance_of(self.w, plan) if i in self.w.at_work]
            assert len(alive) <= 1, f"I1: {len(alive)} machines of run {plan.run_id}"

    def _heard(self, request: Request) -> None:
        target = request.path.split("/")[-2]
        if (
            request.method == "POST"
            and target != "instances"
            and target not in {i.id for i in self.w.cloud.ours}
        ):
            self.w.broken(f"another user's machine was touched: {request.path}")
        elif request.method == "POST" and request.path.endswith("/create"):
            self._create(request)
        elif (
            request.method == "POST"
            and request.path.endswith("/delete")
            and request.who[0] is not None
        ):
            self._delete(request, *request.who)

    def _create(self, request: Request) -> None:
        name, limits = request.body["name"], request.body.get("auto_delete") or {}
        plan = self._plan_now(next(p for p in self.w.plans if name.endswith(p.run_id)))
        if plan.instance_name != name:
            self.w.broken(f"I2: {name} is created by the plan of {plan.instance_name}")
        if (
            not 0
            < parse_time(plan.deadline).timestamp() - self.w.clock.now
            <= LIMIT_CENTS * 3600 / plan.offer.hourly_cents
        ):
            self.w.broken(f"I2: {name} is created at {self.w.clock.utc()} for {plan.deadline}")
        if plan.run_id in self.w.stopped:
            self.w.broken(f"I4: {name} is created after its run was stopped")
        if (
            Decimal(limits.get("spend_threshold", "0")) * 100 != plan.limit_cents
            or limits.get("date_threshold") != plan.deadline
            or request.body.get("shade_cloud") is not True
        ):
            self.w.broken(f"I2: a create with the limits {limits}")
        if (
            sum(
                r.path.endswith("/create") and r.body["name"] == name for r in self.w.cloud.requests
            )
            > 1
        ):
            self.w.broken(f"I3: {name} was created twice")
        if not any(e.plan.run_id == plan.run_id for e in self.w.ledger.entries()):
            self.w.broken(f"I10: the ledger does not know {name} when it is created")

    def _newest_plan(self, plan: Plan) -> Plan:
        """Of the newest attempt, whose create may never have arrived."""
        written = self.w.hub.head(REPO).files.get(f"{plan.folder}/plan.json")
        return read_plan(written) if written else plan

    def _plan_now(self, plan: Plan) -> Plan:
        """The plan of the run's newest attempt, by its run folder."""
        newest = read_plan(self.w.hub.head(REPO).files[f"{plan.folder}/plan.json"])
        self.w.plans[self.w.plans.index(plan)] = self.plans[newest.instance_name] = newest
        return newest

    def _gone_was_seen(self) -> None:
        for entry in self.w.ledger.entries():
            if entry.gone:
                alive = [i.id for i in instance_of(self.w, entry.plan) if i in self.w.at_work]
                assert not alive, (
                    f"I4: the ledger says that run {entry.plan.run_id} is gone, {alive} bills"
                )

    def _left(self, box: Box) -> None:
        if self.w.cloud.billing(box.instance):
            self.w.broken(
                f"I4, I10: the box program left a machine that bills; its last words: {box.said[-300:]}"
            )

    # ---- I5: deleting

    def _delete(self, request: Request, box: Box, program: str) -> None:
        if f"/{box.id}/" not in request.path:
            self.w.broken(f"I5: {box.id} deletes another machine: {request.path}")
        if program == "deadman":
            self._backstop(box, "the dead man's timer")
            if self.w.clock.now < box.deadline - EARLY_S and not self._silent(box):
                self.w.broken(
                    f"the dead man's timer deletes {box.deadline - self.w.clock.now:.0f} s too early by the provider's clock"
                )
        elif box.id not in self._ended:
            self._ended.add(box.id)
            self._hub()
            lost = {
                phase: step for phase in box.plan.phases for step in self._only_here(box, phase)
            }
            told = {
                phase: int(step)
                for phase, step in NOT_SAVED.findall(self._verdict(box).partition("NOT saved: ")[2])
            }
            if untold := {p: step for p, step in lost.items() if step > told.get(p, -1)}:
                self.w.broken(
                    f"I5: deleted with {untold} on its disk alone, and nothing said; said: {box.said[-400:]}"
                )
            elif lost and not self._in_need(box):
                self.w.broken(f"I5: {lost} was given up without need")

    def _silent(self, box: Box) -> bool:
        """Whether Shadeform may have told a machine nothing since its boot."""
        return self.w.api_troubled_at > box.booted_at or any(
            b > box.booted_at for _, b in self.w.cloud.outages
        )

    def _only_here(self, box: Box, phase: str) -> Iterator[int]:
        """The newest whole step of a phase on the machine's disk, unless the Hub has it too, or better."""
        out = trainer_folder(box.work) / "out" / PHASES[phase].output_dir / box.plan.output_tag
        here = sorted(whole for folder in out.glob("step-*") for whole in whole_on_disk(folder))
        if here and here[-1] > self.best.get((box.plan.run_id, phase), NOTHING):
            yield here[-1][1]

    def _verdict(self, box: Box) -> str:
        try:
            return str(json.loads((box.state / "verdict.json").read_bytes())["message"])
        except (OSError, ValueError, KeyError):  # a disk that takes nothing: then its log says it
            return "".join(line for line in box.said.splitlines() if " box: verdict: " in line)

    def _in_need(self, box: Box) -> bool:
        """Money, time or the Hub stood in the way."""
        c = self.w.clock
        return (
            box.id in self.w.risen
            or c.now - self.w.hub.troubled_at < 4000
            or c.now - box.instance.created_at > 3000
        )

    # ---- I6, I7: what is on the Hub

    def _hub(self) -> None:
        commits = self.w.hub.repos[REPO]
        for commit in commits[self._commits :]:
            self._reads(commit)
            for path, data in commit.added.items():
                assert not (m := SECRET.search(data.decode(errors="replace"))), (
                    f"I9: {m[0]} in {path}"
                )
        self._commits = len(commits)

    def _reads(self, commit: Commit) -> None:
        for plan in self.w.plans:
            for phase in plan.phases:
                target, saved = (
                    f"{PHASES[phase].output_dir}/{plan.output_tag}",
                    f"{plan.folder}/saved/{phase}",
                )
                if not any(p.startswith((target, saved)) for p in [*commit.added, *commit.gone]):
                    continue
                now = max(
                    proven(commit, plan, phase, target, True),
                    proven(commit, plan, phase, saved, False),
                )
                before = self.best.get((plan.run_id, phase), NOTHING)
                rots = any(
                    b.plan.run_id == plan.run_id
                    for b in self.w.boxes.values()
                    if self.w.clock.now - b.rotten_at < ROTTEN_S
                )
                if (
                    now < before and not commit.lie and not rots
                ):  # else the box program has to mend it, or to tell
                    self.w.broken(f"I7: {phase} went from {before} to {now} by {commit.title!r}")
                if now < before:
                    self.spoilt.setdefault((plan.run_id, phase), before)
                elif now >= self.spoilt.get(
                    (plan.run_id, phase), NOTHING
                ):  # mended: a second lie mends nothing
                    self.spoilt.pop((plan.run_id, phase), None)
                self.best[plan.run_id, phase] = now

    def _states_follow(self) -> None:
        """While it trains undisturbed, what was saved some time ago is on the Hub."""
        now = self.w.clock.now
        for box in self.w.boxes.values():
            for t in box.trainers:
                old = [step for at, step in t.saved if at < now - FOLLOW_S]
                calm = (
                    min(now - self.w.hub.troubled_at, now - box.started_at, now - box.rotten_at)
                    > FOLLOW_S
                )
                if t.alive and old and calm and box.runs("box"):
                    have = self.best.get((box.plan.run_id, t.phase), NOTHING)
                    assert have >= (0, old[-1]), (
                        f"step {old[-1]} of {t.phase} was saved {FOLLOW_S:.0f} s ago, the Hub holds {have}"
                    )

    def _acknowledged_is_there(self) -> None:
        for box in self.w.boxes.values():
            for phase, place, step, state in ACKNOWLEDGED.findall(
                box.said[self._said.get(box.id, 0) :]
            ):
                final = bool(place) and not place.startswith("runs/")
                have = self.best.get((box.plan.run_id, phase), NOTHING)
                assert (
                    have >= (final, int(step or state)) or (box.plan.run_id, phase) in self.spoilt
                ), f"{phase} step {step or state} was called proven, the Hub holds {have}"

    # ---- I8: money

    def _bounded_bill(self) -> None:
        for i in self.w.cloud.ours:
            over_s = (
                TEND_S
                + POLL_S
                + 2 * RETRY_S
                + self.grace_s
                + sum(b - a for a, b in self.w.cloud.outages)
            )
            plan = self._plan_of(i)
            # nothing of ours runs there; or no answer has shown the new price or the cost yet
            if i.id in self.w.back or self.w.price_risen(i):
                continue
            most = (
                max(plan.limit_cents / 100, self.w.risen.get(i.id, 0.0))
                + i.price_cents * over_s / 3600 / 100
            )
            assert i.cost_at(self.w.clock.now) <= most, (
                f"I8: {i.name} cost ${i.cost_at(self.w.clock.now):.2f}, at most ${most:.2f} was agreed"
            )
            box = self.w.boxes.get(i.id)
            if i.why in ("spend", "date") and box and i.id not in self._ended:
                self._ended.add(i.id)
                self._backstop(box, f"the provider's limit ({i.why})")

    def _backstop(self, box: Box, what: str) -> None:
        """What stands behind the box program may only act when that had trouble."""
        end = min(self.w.clock.now, box.instance.deleting_at)
        outages = [
            min(b, end) for a, b in self.w.cloud.outages if a < end
        ]  # trouble lasts until they are over
        quiet = (
            end - max(box.started_at, self.w.api_troubled_at, *outages) > QUIET_S
        )  # a Hub in trouble is no excuse
        if quiet and box.runs("box"):
            self.w.broken(
                f"I8: {what} ended a machine whose box program ran undisturbed; said: {box.said[-300:]}"
            )

    def _plan_of(self, instance: Instance) -> Plan:
        return self.plans[instance.name]

    # ---- I9: secrets

    def _no_secret(self) -> None:
        seen = [o.said + f" {o.error}" for o in self.w.outcomes[self._outcomes :]]
        for box in self.w.boxes.values():
            seen.append(box.said[self._said.get(box.id, 0) :])
            self._said[box.id] = len(box.said)
        for r in self.w.cloud.requests[self._requests :]:
            seen.append(
                r.path
                + json.dumps(
                    {k: v for k, v in (r.body or {}).items() if k != "launch_configuration"}
                )
            )
        self._requests = len(self.w.cloud.requests)
        seen += [p.read_text() for p in self.w.ledger.runs.glob("*")]
        for text in seen:
            assert not (m := SECRET.search(text)), (
                f"I9: {m[0]} in {text[max(0, m.start() - 100) : m.end() + 100]}"
            )

    # ---- I10: what the user is told

    def _told(self, o: Outcome) -> None:
        if o.off or not o.launch:
            return
        plan = self._newest_plan(next(p for p in self.w.plans if p.run_id == o.run_id))
        alive, price = (
            [i for i in instance_of(self.w, plan) if i in self.w.at_work],
            f"{dollars(plan.offer.hourly_cents)}/h",
        )
        words = o.said + str(o.error or "")
        named = plan.instance_name in words or any(i.id in words for i in alive)
        if isinstance(o.error, (MayBeBilling, KeyboardInterrupt)) and (
            alive or isinstance(o.error, MayBeBilling)
        ):
            assert named and price in words and "just stop" in words, f"I10: {words}"
        elif isinstance(o.error, NanolanError):
            assert not alive or "it deletes itself" in words, (
                f"I10: {o.error!r} does not say that {[i.name for i in alive]} bills"
            )
        elif o.error is None:
            cents, limits = o.kept
            risen, dropped = (
                o.value.id in self.w.risen,
                o.value.id in self.w.dropped,
            )  # since it was read back
            unseen = "the provider shows no price" in words
            assert cents <= plan.offer.hourly_cents or risen or unseen, f"I2: {cents} cents an hour"
            assert {"spend_threshold", "date_threshold"} <= limits or dropped, f"I2: kept {limits}"
            assert o.value.id in words and price in words and dollars(plan.limit_cents) in words, (
                f"I10: {words}"
            )

    # ---- the end

    def at_the_end(self) -> None:
        """After time has run on: no machine, no program, and every receipt true."""
        self.check()
        self._what_came_back_is_seen()
        for i in self.w.cloud.ours:
            assert not self.w.cloud.billing(i), f"I8: {i.name} bills for ever"
        for box in self.w.boxes.values():
            assert not box.runs("box"), "the box program outlives its machine"
            raw = self.w.hub.head(REPO).files.get(f"{box.plan.folder}/receipt.json")
            if raw and json.loads(raw)["verdict"] == "succeeded":
                short = [
                    p
                    for p in box.plan.phases
                    if self.best.get((box.plan.run_id, p), NOTHING) < (1, 0)
                ]
                assert not short, f"a success without {short} on the Hub"

    def _what_came_back_is_seen(self) -> None:
        """A machine that bills again is named with the command that stops it, and that stops it."""
        for _ in range(LOOKS):
            back = [i for i in self.w.cloud.ours if i.id in self.w.back and self.w.cloud.billing(i)]
            if not back:
                return
            shown = {o.instance.id: o.command for o in self.w.orphans().value or ()}
            for i in back:
                if i.id in shown and (entry := self.w.entry(self._plan_of(i))):
                    assert "just stop" in shown[i.id], (
                        f"{i.name} bills again, and no command is told"
                    )
                    self.w.stop(entry)
            self.w.run(600)
        raise AssertionError(f"{[i.name for i in back]} came back and is not seen, or not stopped")


def proven(commit: Commit, plan: Plan, phase: str, folder: str, final: bool) -> tuple[int, int]:
    """(is final, step) that a reader takes for whole in a folder; AssertionError (I6) when it is not what the trainer saved."""
    tree = tree_of(REPO, commit)
    try:
        manifest = parse_manifest(commit.files[f"{folder}/manifest.json"])
        if final:
            if phase_state(Entry(plan), phase, tree, manifest, None).state != "proven":
                return NOTHING
        else:
            prove(tree, folder, manifest)
    except (KeyError, NanolanError):
        return NOTHING
    if (manifest.run_id, manifest.phase) != (plan.run_id, phase):
        return NOTHING
    here = {
        p.removeprefix(f"{folder}/"): d
        for p, d in commit.files.items()
        if p.startswith(f"{folder}/")
    }
    assert is_whole(manifest, here), f"I6: {folder} counts as whole at {commit.title!r} and is not"
    assert manifest.final == final, f"I6: {folder} holds a manifest that is not of its place"
    return int(manifest.final), manifest.step


def is_whole(m: Manifest, files: Mapping[str, bytes]) -> bool:
    """Whether these are all files of the step that the trainer saved; its meta may have got an evaluation since."""
    want = files_of(m.run_id, m.phase, m.step)
    return (
        {f.path for f in m.files} == set(want)
        and all(f.path in files and f == entry_of(f.path, files[f.path]) for f in m.files)
        and all(files[name] == data for name, data in want.items() if name.startswith("model_"))
    )


def entry_of(path: str, data: bytes) -> FileEntry:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return FileEntry(path, len(data), hashlib.sha256(data).hexdigest(), git.hexdigest())


def whole_on_disk(folder: Path) -> Iterator[tuple[int, int]]:
    """(is final, step) of a saved step, if it is whole."""
    try:
        manifest = parse_manifest((folder / "manifest.json").read_bytes())
    except (OSError, NanolanError):
        return
    if is_whole(manifest, {p.name: p.read_bytes() for p in folder.iterdir()}):
        yield int(manifest.final), manifest.step
