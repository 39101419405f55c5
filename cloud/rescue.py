"""What must work on a bare machine before (and after) everything else: fetch, give up, and the dead man's timer.

Standard library only; travels inside the startup script, next to plan.json and secrets.json.

    rescue.py fetch URL SHA256 FILE     the code bundle, checked
    rescue.py fail "reason"             upload the log and a receipt, delete this machine
    rescue.py deadman EPOCH             delete this machine at that time; does nothing else
"""
import base64
import hashlib
import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATIENCE_S, WAIT_S, POLL_S = 600, 3, 5
LOG_BYTES = 5_000_000


def call(url, token=None, key=None, body=None, timeout=60):
    """The answer's bytes; tokens are not sent on to another host after a redirect."""
    request = urllib.request.Request(url, data=body)  # noqa: S310  # our own addresses
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if key:
        request.add_unredirected_header("X-API-KEY", key)
    if body is not None:
        request.add_header("Content-Type", "application/x-ndjson" if token else "application/json")
    with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
        return answer.read()


def patiently(what, act, patience_s):
    """`act()` until it works; after `patience_s` the error."""
    end = time.monotonic() + patience_s
    while True:
        try:
            return act()
        except (OSError, ValueError) as e:   # URLError and HTTPError are OSErrors
            print(f"rescue: {what}: {type(e).__name__} {getattr(e, 'code', '')}", flush=True)
            if time.monotonic() > end or getattr(e, "code", 0) in (401, 403, 404):
                raise
            time.sleep(WAIT_S)


def fetch(url, sha256, target, secrets):
    data = patiently("fetch the code", lambda: call(url, token=secrets["HF_TOKEN"]), PATIENCE_S)
    if hashlib.sha256(data).hexdigest() != sha256:
        sys.exit("rescue: the code bundle is not the one that the launcher uploaded")
    Path(target).write_bytes(data)


def upload_log(plan, secrets, reason):
    """The log and a receipt in one commit; the log is masked by value."""
    log = Path(os.environ.get("BOX_ROOT", "") + "/var/log/lanbot-training.log").read_text(errors="replace")[-LOG_BYTES:]
    for value in filter(None, secrets.values()):
        log = log.replace(value, "***")
    name = log_name(plan)
    receipt = {"run_id": plan["run_id"], "verdict": "failed", "reason": "boot_failed",
               "message": f"the machine gave up: {reason}", "log": f"logs/error-{name}.log"}
    lines = [{"key": "header", "value": {"summary": f"run {plan['run_id']}: boot failed"}}]
    for path, text in ((receipt["log"], log), (f"runs/{plan['run_id']}/receipt.json", json.dumps(receipt, indent=2))):
        lines.append({"key": "file", "value": {"path": path, "encoding": "base64",
                                               "content": base64.b64encode(text.encode()).decode()}})
    url = f"{plan['hf_endpoint']}/api/models/{plan['runs_repo']}/commit/main"
    call(url, token=secrets["HF_TOKEN"], body="\n".join(map(json.dumps, lines)).encode())


def log_name(plan):
    stamp = plan["created_at"][:16].replace("-", "").replace(":", "").replace("T", "-")
    return f"lanbot-{'-'.join(plan['phases'])}-{stamp}-{plan['run_id']}"


def delete_self(plan, secrets):
    """Delete the instance of this run until it is seen to be gone; never gives up."""
    api, key = plan["shadeform_api"], secrets["SHADEFORM_API_KEY"]
    looks_left = 10   # a listing may lag: never having been seen is not being gone
    while True:
        try:
            mine = [i for i in json.loads(call(f"{api}/instances", key=key))["instances"]
                    if f"nanolan-run={plan['run_id']}" in (i.get("tags") or ()) or i["name"].endswith("-" + plan["run_id"])]
            looks_left = 0 if mine else looks_left - 1
            if looks_left <= 0 and all(i["status"] in ("deleting", "deleted") for i in mine):
                return
            for i in mine:
                print(f"rescue: deleting {i['id']}", flush=True)
                call(f"{api}/instances/{i['id']}/delete", key=key, body=b"{}")
        except (OSError, ValueError, KeyError) as e:
            print(f"rescue: delete: {type(e).__name__} {getattr(e, 'code', '')}", flush=True)
        time.sleep(POLL_S)


def main():
    plan, secrets = (json.loads((HERE / name).read_bytes()) for name in ("plan.json", "secrets.json"))
    if sys.argv[1] == "fetch":
        fetch(*sys.argv[2:], secrets)
    elif sys.argv[1] == "fail":
        try:
            patiently("upload the log", lambda: upload_log(plan, secrets, sys.argv[2]), 120)
        except Exception as e:   # whatever it is, the machine must go
            print(f"rescue: the log could not be uploaded: {type(e).__name__}", flush=True)
        delete_self(plan, secrets)
    elif sys.argv[1] == "deadman":
        started, life_s = time.monotonic(), float(sys.argv[2]) - time.time()
        while time.time() < float(sys.argv[2]) and time.monotonic() - started < life_s:   # whichever clock says so first
            time.sleep(POLL_S)
        print("rescue: the time is up", flush=True)
        delete_self(plan, secrets)


if __name__ == "__main__":
    main()
