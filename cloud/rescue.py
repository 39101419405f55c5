"""What must work on a bare machine before (and after) everything else: fetch, give up, and the dead man's timer.

Standard library only; travels inside the startup script, next to the plan's facts and secrets.json.

    rescue.py fetch URL SHA256 FILE     a file of the run folder, checked
    rescue.py fail "reason"             upload the log and a receipt, delete this machine
    rescue.py deadman EPOCH             delete this machine at that time; does nothing else (but power it off when that fails)

Where no Shadeform key is among the secrets nothing is deleted: the machine is left to whoever holds one, and powered off.
A job of SkyPilot or Hugging Face (NANOLAN_JOB: its first process, cloud/job.py) is ended instead; they take its machine down.
Nothing that fails here on the side (a full disk, a closed pipe, no memory for another process) keeps the machine from its deletion.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

HERE = Path(__file__).resolve().parent
FETCH_PATIENCE_S, LOG_PATIENCE_S = 600, 120
REFUSED_S = {False: 60, True: 2}  # for a 401, 403 or 404, which may pass; True: a Hub right here
CALL_S, FETCH_S = 120, 300  # one request with its whole answer; the same for the code bundle
MOST_BYTES = 256 << 20  # of an answer
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 30
AGAIN_S = 180  # after a deletion that was seen, until the next look
HEAD_BYTES, TAIL_BYTES = 500_000, 4_500_000  # of a log that is longer
PROBES = {
    "gpus": ["nvidia-smi"],
    "kernel": ["dmesg", "-T"],
    "disk": ["df", "-h"],
    "memory": ["free", "-m"],
}
PROBE_S, LINES = 8, 500
DOUBT_S = 10 * 60  # for the provider to tell the time, where a clock here says that all is over
POWER_OFF_S = 15 * 60  # after this long of deleting in vain, past the provider's own limit
JOB = "NANOLAN_JOB"
NOTE = "[a secret stood here and was masked]"  # of nanolan/redact.py, in the log
TROUBLE = (OSError, ValueError, http.client.HTTPException)  # URLError and HTTPError are OSErrors


class Redirects(urllib.request.HTTPRedirectHandler):
    """On the same server (scheme, host and port) a redirect keeps the keys, and 307 and 308 repeat the method and the body.
    No key goes anywhere else, and no body."""

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # unknown to Python 3.10

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if server_of(req.full_url) != server_of(newurl):
            return super().redirect_request(
                req, fp, 307 if code == 308 else code, msg, headers, newurl
            )
        kept = {
            k: v
            for k, v in req.header_items()
            if k in ("Authorization", "X-api-key", "Content-type")
        }
        request = urllib.request.Request(newurl, data=req.data if code in (307, 308) else None)  # noqa: S310
        for name, value in kept.items():
            request.add_unredirected_header(name, value)
        return request


OPENER = urllib.request.build_opener(Redirects)


def server_of(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def call(
    url: str, token: str = "", key: str = "", body: bytes | None = None, most_s: int = CALL_S
) -> bytes:
    """The answer's bytes, all of them within `most_s` seconds."""
    request = urllib.request.Request(url, data=body)  # noqa: S310  # our own addresses
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if key:
        request.add_unredirected_header("X-API-KEY", key)
    if body is not None:
        request.add_unredirected_header(
            "Content-Type", "application/x-ndjson" if token else "application/json"
        )
    with at_most(most_s), OPENER.open(request, timeout=60) as answer:
        data = bytes(answer.read(MOST_BYTES))
        if answer.length or len(data) == MOST_BYTES:  # length: what is still to come
            raise http.client.IncompleteRead(b"", answer.length)
    return data


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """TimeoutError after so many seconds: a socket's own time-out begins anew with each byte that drips in."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"no whole answer in {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def patiently(
    what: str,
    act: Callable[[], bytes],
    patience_s: float,
    endpoint: str,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bytes:
    """`act()` until it works; after `patience_s`, or sooner at a no that stays, the error."""
    began, wait = clock(), FIRST_WAIT_S
    refused_s = REFUSED_S[urlsplit(endpoint).hostname == "127.0.0.1"]
    while True:
        try:
            return act()
        except TROUBLE as e:
            say(f"{what}: {type(e).__name__} {getattr(e, 'code', '')}")
            if clock() - began > (
                refused_s if getattr(e, "code", 0) in (401, 403, 404) else patience_s
            ):
                raise
            sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT_S)


def fetch(url: str, sha256: str, target: str, secrets: dict[str, str]) -> None:
    """Download a file of the run folder to `target`, unless it is there; exit 1 when it is another one than the launcher's."""

    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    with contextlib.suppress(OSError):
        if digest(Path(target).read_bytes()) == sha256:
            return
    name = url.rpartition("/")[2]
    data = patiently(
        f"fetch {name}",
        lambda: call(url, token=secrets["HF_TOKEN"], most_s=FETCH_S),
        FETCH_PATIENCE_S,
        url,
    )
    if digest(data) != sha256:
        sys.exit(f"rescue: {name} is not the one that the launcher uploaded")
    new = Path(f"{target}.new")
    new.touch(0o600)
    new.write_bytes(data)
    new.replace(target)


def give_up(
    plan: dict[str, Any],
    secrets: dict[str, str],
    reason: str,
    *,
    ask: Callable[..., bytes] = call,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Upload the log if the Hub takes it, and delete this machine."""
    try:
        patiently(
            "upload the log",
            lambda: upload_log(plan, secrets, reason, ask),
            LOG_PATIENCE_S,
            plan["hf_endpoint"],
            clock=clock,
            sleep=sleep,
        )
    except Exception as e:  # whatever it is, the machine must go
        say(f"the log could not be uploaded: {type(e).__name__}")
    if os.environ.get(JOB):
        sys.exit(1)  # the end of the job
    if keyless(secrets):
        say("no Shadeform key is here: this machine waits for just guard, or the provider's limit")
        return
    delete_self(plan, secrets, ask=ask, clock=clock, sleep=sleep)


def upload_log(
    plan: dict[str, Any], secrets: dict[str, str], reason: str, ask: Callable[..., bytes] = call
) -> bytes:
    """The log and the receipt in one commit, masked by value; a verdict that the box program reached stands."""
    name = f"logs/error-{instance_name(plan)}.log"
    try:
        receipt = read("verdict.json")
        _ = receipt["verdict"] + receipt["log"]
    except Exception:  # there is none, or what a crash left of it
        receipt = {
            "run_id": plan["run_id"],
            "verdict": "failed",
            "reason": "boot_failed",
            "message": f"the machine gave up: {reason}",
            "log": name,
            "attempt": attempt(plan),
            "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
    raw = read_log()
    log = hide(raw, secrets)
    if plan.get("public") and (log != raw or NOTE in log):  # as nanolan/run/record.py says it
        warning = (
            f"A SECRET WAS PRINTED INTO THE LOG and masked before the upload, and {plan['runs_repo']} is public: look what "
            "printed it (***), and make new keys if you doubt the mask"
        )
        log += f"rescue: WARNING: {warning}\n"
        if not receipt.get("warning"):
            receipt.update(
                warning=warning, message=f"{receipt.get('message', '')}. {warning}".strip(". ")
            )
    files = {
        receipt["log"]: log,
        f"runs/{plan['run_id']}/receipt.json": json.dumps(receipt, indent=2),
    }
    if receipt["verdict"] != "succeeded":
        files[f"runs/{plan['run_id']}/postmortem.json"] = json.dumps(
            postmortem(plan, receipt, log), indent=2
        )
    lines = [
        {
            "key": "header",
            "value": {
                "summary": f"run {plan['run_id']}: {receipt['verdict']} {receipt.get('reason')}"
            },
        }
    ]
    for path, text in files.items():
        content = base64.b64encode(hide(text, secrets).encode()).decode()
        lines.append(
            {"key": "file", "value": {"path": path, "encoding": "base64", "content": content}}
        )
    url = f"{plan['hf_endpoint']}/api/models/{plan['runs_repo']}/commit/main"
    return ask(url, token=secrets["HF_TOKEN"], body="\n".join(map(json.dumps, lines)).encode())


def hide(text: str, secrets: dict[str, str]) -> str:
    """As nanolan/redact.py does it, for what a short program can print."""
    for form in sorted(
        {f for value in secrets.values() if value for f in forms(value)}, key=len, reverse=True
    ):
        text = text.replace(form, "***")
    return text


def forms(value: str) -> set[str]:
    """A secret as it is, in an address, in JSON, and in base64 at each alignment."""
    raw = value.encode()
    coded = {
        base64.b64encode(b"\0" * i + raw).decode()[cut : (i + len(raw)) * 8 // 6]
        for i, cut in enumerate((0, 2, 3))
    }
    return {
        f
        for f in {value, quote(value), quote(value, safe=""), json.dumps(value)[1:-1], *coded}
        if len(f) > 5
    }


def say(text: str) -> None:
    """A line of the log: no secret, nothing that drives a terminal. What cannot be said is left unsaid."""
    try:  # without the file there is nothing to hide
        with contextlib.suppress(OSError, ValueError, AttributeError):
            text = hide(text, read("secrets.json"))
        print("rescue: " + "".join(c if c.isprintable() else "?" for c in text), flush=True)
    except Exception:  # noqa: S110  # a full disk, a closed pipe: the machine must go all the same
        pass


def read(name: str) -> dict[str, Any]:
    """One of the JSON files that lie beside this program."""
    data = json.loads((HERE / name).read_bytes())
    if not isinstance(data, dict):
        raise ValueError(f"{name} holds no object")
    return data


def read_log() -> str:
    """All of it, or its two ends; never half a line, which may hold half a secret."""
    try:
        with open(os.environ.get("BOX_ROOT", "") + "/var/log/lanbot-training.log", "rb") as f:
            data = f.read(HEAD_BYTES)
            if f.seek(0, os.SEEK_END) > HEAD_BYTES + TAIL_BYTES:
                data = data[: data.rfind(b"\n") + 1] + b"[the middle of the log is left out here]\n"
                f.seek(-TAIL_BYTES, os.SEEK_END)
                f.readline()
            else:
                f.seek(len(data))
            return (data + f.read()).decode(errors="replace")
    except OSError as e:
        return f"the log cannot be read: {e.strerror}\n"


def postmortem(plan: dict[str, Any], receipt: dict[str, Any], log: str) -> dict[str, Any]:
    """Same shape as nanolan/box/upload/postmortem.py makes, without what only the box program knows; the reader adds the reason."""
    seen, not_seen = {}, {}
    for name, command in PROBES.items():
        try:
            seen[name] = probe(command)[-LINES:]
        except Exception as e:  # no such program, or no memory for one: the others are asked
            not_seen[name] = f"{type(e).__name__}: {e}"
    return {
        "run_id": plan["run_id"],
        "attempt": attempt(plan),
        "reason": receipt.get("reason", ""),
        "cause": "",
        "verdict": receipt["verdict"],
        "message": receipt.get("message", ""),
        "seen": seen,
        "not_seen": not_seen,
        "log": log.splitlines()[-LINES:],
        "plan": plan,
    }


def probe(command: list[str]) -> list[str]:
    """What a program of this machine says. One that hangs is left behind: a GPU that is gone lets nobody end it."""
    path = f"{os.environ.get('BOX_ROOT', '')}/usr/bin/{command[0]}"
    child = subprocess.Popen(
        [path, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        return child.communicate(timeout=PROBE_S)[0].splitlines()
    except subprocess.TimeoutExpired:
        child.kill()
        raise


def instance_name(plan: dict[str, Any]) -> str:
    """As nanolan/plan.py makes it."""
    stamp = plan["created_at"][:16].replace("-", "").replace(":", "").replace("T", "-")
    again = f"a{attempt(plan)}-" if attempt(plan) > 1 else ""
    return f"lanbot-{'-'.join(plan['phases'])}-{stamp}-{again}{plan['run_id']}"


def attempt(plan: dict[str, Any]) -> int:
    """Which machine of its run this is. A job's number is raised by the box program; before that its last one counts."""
    return max(int(plan.get("attempt", 1)), int(os.environ.get("NANOLAN_ATTEMPT") or 1))


def is_this(plan: dict[str, Any], instance: Any, ids: set[str]) -> bool:
    """Whether a listed instance is this very machine: an earlier or later one of the same run is not."""
    if not isinstance(instance, dict):
        return False
    tags = instance.get("tags")
    wanted = {f"nanolan-run={plan['run_id']}", f"nanolan-attempt={attempt(plan)}"}
    return (
        str(instance.get("id")) in ids
        or instance.get("name") == instance_name(plan)
        or isinstance(tags, list)
        and all(t in tags for t in wanted)
    )


def keyless(secrets: dict[str, str]) -> bool:
    """Whether no Shadeform key is here: this machine can only wait to be deleted, and be powered off."""
    return not secrets.get("SHADEFORM_API_KEY")


def delete_self(
    plan: dict[str, Any],
    secrets: dict[str, str],
    power_off_s: float = float("inf"),
    *,
    ask: Callable[..., bytes] = call,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    rehearsal: bool = bool(os.environ.get("BOX_ROOT")),
) -> None:
    """Delete the instance of this run, and look again until it takes this program with it: while this runs, no answer shows that
    it is gone, and a deletion may be taken back. Powers it off after `power_off_s`. Returns in a rehearsal only."""
    api, key = plan["shadeform_api"], secrets["SHADEFORM_API_KEY"]
    ids = set(noted_id())  # none: never having been listed is not being gone
    wait, end, looks = FIRST_WAIT_S, clock() + power_off_s, 0

    def delete(instance_id: str) -> int:
        try:
            ask(f"{api}/instances/{quote(instance_id, safe='')}/delete", key=key, body=b"{}")
            say(f"deleting {instance_id}")
            return 0
        except Exception as e:  # whatever was answered, the machine must go
            say(f"delete {instance_id}: {type(e).__name__} {getattr(e, 'code', '')}")
            return getattr(e, "code", 0)

    def gone() -> bool:
        try:
            shown = {
                str(i["id"]): str(i.get("status")).strip().lower()
                for i in json.loads(ask(f"{api}/instances", key=key))["instances"]
                if is_this(plan, i, ids)
            }
        except Exception as e:  # no list: then by the ids that are known
            say(f"delete: {type(e).__name__} {getattr(e, 'code', '')}")
            shown = dict.fromkeys(ids, "")
        ids.update(shown)
        left = [i for i in ids if shown.get(i) not in ("deleting", "deleted")]
        return bool(ids) and all([delete(i) == 404 and i not in shown for i in left])

    while looks < 2 or not rehearsal:
        if clock() > end:
            power_off()
            end = float("inf")
        looks = looks + 1 if gone() else 0
        wait = FIRST_WAIT_S if looks else min(wait * 2, LONGEST_WAIT_S)
        sleep(AGAIN_S if looks and not rehearsal else wait)


def noted_id() -> list[str]:
    """This machine's id, if the box program noted it here."""
    try:
        return [str(read("instance.json")["id"])]
    except Exception:  # it came not so far
        return []


def power_off() -> None:
    """The last act: nobody says that it ends the bill, but nothing is computed any more, and the provider may notice."""
    say("still running past its limit: powering off")
    root = os.environ.get("BOX_ROOT", "")  # a rehearsal touches nothing outside it
    command = [f"{root}/usr/bin/systemctl", "poweroff"]
    with contextlib.suppress(Exception):  # no such program, no memory for one, or it hangs
        if subprocess.Popen(command, stdin=subprocess.DEVNULL).wait(CALL_S) == 0:
            return
    with contextlib.suppress(OSError):  # by the kernel itself
        Path(f"{root}/proc/sysrq-trigger").write_text("o")


def deadline(first: float) -> float:
    """When this machine must go: `first`, or what `just limit` said since, which the box program keeps here."""
    try:
        moved = float(read("limit.json")["epoch"])
    except Exception:  # there is none, or it cannot be read
        return first
    return moved if moved == moved else first  # not a number


def wait_until(
    epoch: Callable[[], float],
    provider: Callable[[], float | None],
    doubt_s: float = DOUBT_S,
    *,
    wall: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Until the provider's clock says so, asked at the start and at the end, and carried on in between by the monotonic one.

    While it does not answer: until the wall clock or the monotonic one says so, whichever is first, and `doubt_s` longer: a
    deletion needs its answer, too.
    """
    start, known = wall() - clock(), False
    while True:
        left = epoch() - (start + clock() if known else max(wall(), start + clock()))
        if not known or left <= 0:
            told = provider()
            if told is not None:
                start, known = told - clock(), True
                left = epoch() - told
        if left <= 0 and (known or doubt_s <= 0):
            return
        if left <= 0:
            left = LONGEST_WAIT_S
            doubt_s -= left
        sleep(min(left, LONGEST_WAIT_S))


def provider_time(api: str, told: Callable[[str], float | None] | None = None) -> float | None:
    """Unix seconds by the provider's clock; None where it tells none, or two answers contradict each other by a minute."""
    first, second = map(told or told_time, (api, api))
    return (
        second
        if first is not None and second is not None and abs(second - first) <= 60 + CALL_S
        else None
    )


def told_time(api: str) -> float | None:
    """The same as the `Date` of one answer tells it, that does not come out of a cache."""
    try:
        with at_most(CALL_S), OPENER.open(f"{api}/instances/types", timeout=60) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as e:
        headers = e.headers
    except TROUBLE:
        return None
    try:
        date = parsedate_to_datetime(headers["Date"])
        return date.timestamp() if date.tzinfo and (headers["Age"] or "0").strip() == "0" else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def armed(first: float) -> None:
    """The dead man's timer. What it needs is read now: at its time the disk may be gone."""
    with contextlib.suppress(OSError):  # not for the kernel to end, when memory runs out
        Path("/proc/self/oom_score_adj").write_text("-1000")
    known, job = knowledge(), os.environ.get(JOB)
    clock = "hf_endpoint" if job else "shadeform_api"
    wait_until(
        lambda: deadline(first),
        lambda: provider_time(known[0][clock]) if known else None,
        DOUBT_S if known else 0,
    )
    say("the time is up")
    if job:
        end_job(int(job))
    known = known or knowledge()
    if known is None or keyless(known[1]):
        power_off()
    else:
        delete_self(*known, POWER_OFF_S)


def end_job(first: int, sleep: Callable[[float], None] = time.sleep) -> None:
    """End a job by its first process; whoever started it takes the machine down. Returns if that does not happen."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(OSError):
            os.kill(first, number)
        sleep(POWER_OFF_S / 2)


def knowledge() -> tuple[dict[str, Any], dict[str, str]] | None:
    """The plan, or before it is fetched the facts of it that came along, and the secrets; None when they cannot be read."""
    for name in ("attempt.json", "plan.json", "facts.json"):  # the first: of a job
        if not (HERE / name).exists():
            continue
        try:
            plan, secrets = read(name), read("secrets.json")
            _ = (
                instance_name(plan),
                plan["shadeform_api"],
                plan["hf_endpoint"],
                plan["runs_repo"],
                keyless(secrets),
            )
            return plan, secrets
        except Exception as e:  # cut off by a crash
            say(f"{name} or the secrets cannot be read: {type(e).__name__}")
    return None


def alone() -> bool:
    """Whether no other timer is armed; the lock, on the folder itself, is held until this program ends."""
    try:
        fcntl.flock(os.open(HERE, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks: two timers are better than none
        return True
    return True


def main() -> None:
    with contextlib.suppress(OSError):  # unbuffered: what a full disk did not take stays untaken
        sys.stdout = io.TextIOWrapper(
            io.FileIO(1, "w", closefd=False), errors="replace", write_through=True
        )
    if sys.argv[1] == "deadman":
        if alone():
            armed(float(sys.argv[2]))
        return
    known = knowledge()
    if known is None:
        sys.exit("rescue: without them nothing can be done; the provider's limit ends this machine")
    if sys.argv[1] == "fetch":
        fetch(sys.argv[2], sys.argv[3], sys.argv[4], known[1])
    elif sys.argv[1] == "fail":
        give_up(*known, sys.argv[2])


if __name__ == "__main__":
    main()
