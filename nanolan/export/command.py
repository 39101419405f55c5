"""The command of a job, and the program that it fetches: start.py in the run folder, which is cloud/job.py with the run's values.

The only place that puts values into a job's shell command.
"""

from __future__ import annotations

import hashlib

from nanolan.launch.request import UNPACK, cloud_file, run_url, script_values
from nanolan.plan import Plan
from nanolan.times import parse_time

START = "start.py"  # in the run folder
# What a job runs. Its values are Python literals of checked names, addresses and hashes: the shell expands nothing in it
COMMAND = """\
exec python3 - <<'END OF NANOLAN'
import hashlib, json, os, sys, tempfile, time, urllib.request
folder, sha256, names = {values}
if not os.environ.get("HF_TOKEN"):
    sys.exit("nanolan: HF_TOKEN is not set here: pass it as a secret of the job")
request = urllib.request.Request(folder + "/{start}")
request.add_unredirected_header("Authorization", "Bearer " + os.environ["HF_TOKEN"])
for wait in (1, 2, 4, 8, 15, 30, 60, 60, 0):
    try:
        program = urllib.request.urlopen(request, timeout=60).read()
        break
    except Exception as e:
        print("nanolan: {start} of run {run_id}:", type(e).__name__, getattr(e, "code", ""), flush=True)
        if getattr(e, "code", 0) in (401, 403, 404) or not wait:
            sys.exit("nanolan: it cannot be fetched. May HF_TOKEN read " + folder + "?")
        time.sleep(wait)
if hashlib.sha256(program).hexdigest() != sha256:
    sys.exit("nanolan: {start} is not the one that was exported; nothing was run")
path = tempfile.mkdtemp() + "/{start}"
with open(path, "wb") as file:
    file.write(program)
secrets = {{name: os.environ.pop(name) for name in names if os.environ.get(name)}}
read, write = os.pipe()
os.write(write, json.dumps(secrets).encode())
os.close(write)
os.dup2(read, 0)
os.execv(sys.executable, [sys.executable, path, folder])
END OF NANOLAN
"""


def start_program(plan: Plan) -> bytes:
    """start.py of a run: cloud/job.py, called with the run's values. It holds no secret."""
    life = parse_time(plan.deadline) - parse_time(plan.created_at)
    values = {
        "script": script_values(plan),
        "unpack": UNPACK,
        "life_s": int(life.total_seconds()),
        "folder": run_url(plan, "main"),
    }
    return f"{cloud_file('job.py')}\n\nstart({ascii(values)})\n".encode()


def command(plan: Plan, revision: str, secrets: tuple[str, ...]) -> str:
    """The job's shell command: fetch start.py of that revision of the run folder, check it, become it. `secrets` are the names of
    the environment variables that hold them."""
    digest = hashlib.sha256(start_program(plan)).hexdigest()
    values = ascii((run_url(plan, revision), digest, secrets))
    return COMMAND.format(values=values, start=START, run_id=plan.run_id)
