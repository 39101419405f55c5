# nanolan: one command rents GPUs, trains, uploads the checkpoint to the Hub and deletes the instance.
# Every recipe runs one file of scripts/; `./just RECIPE --help` shows its options.

set positional-arguments

# Empty means unset: a machine-wide value would disable compiled files and slow every command
export PYTHONDONTWRITEBYTECODE := ""
# Values from the environment would load other packages, or break Python
export PYTHONPATH := ""
export PYTHONHOME := ""

# Relative paths count from the caller's folder, not from the checkout
export NANOLAN_CALLED_FROM := invocation_directory()

python := ".venv/bin/python"
# How the user calls the recipes: nanolan/settings/invoked.py
name := env("NANOLAN_COMMAND", "just")

_default:
    @"{{just_executable()}}" --list --unsorted
    @echo "{{name}} RECIPE --help: its options. Try: {{name}} rehearse; then: {{name}} doctor"

# a whole run on this machine, nothing rented
[group('run')]
[no-exit-message]
rehearse *args: (_setup "train")
    @{{python}} scripts/rehearse.py "$@"

# the same with every fault, for real (30 minutes)
[group('run')]
[no-exit-message]
rehearse-faults *args: (_setup "train")
    @{{python}} scripts/rehearse_faults.py "$@"

# ask for keys and repo, try them, write .env
[group('run')]
[no-exit-message]
init *args: _setup
    @{{python}} scripts/init.py "$@"

# what a launch needs, with a fix per line
[group('run')]
[no-exit-message]
doctor *args: _setup
    @{{python}} scripts/doctor.py "$@"

# what a launch would do and cost; rents nothing
[group('run')]
[no-exit-message]
dry-run *args: _setup
    @{{python}} scripts/launch.py --dry-run "$@"

# rent, train, upload, prove, delete
[group('run')]
[no-exit-message]
launch *args: _setup
    @{{python}} scripts/launch.py "$@"

# continue a run that ended short
[group('run')]
[no-exit-message]
resume *args: _setup
    @{{python}} scripts/resume.py "$@"

# a run for SkyPilot or Hugging Face Jobs to start
[group('run')]
[no-exit-message]
export *args: _setup
    @{{python}} scripts/export.py "$@"

# what can be rented now, and what a run costs there
[group('run')]
[no-exit-message]
offers *args: _setup
    @{{python}} scripts/offers.py "$@"

# every run: state, cost, what is proven
[group('watch')]
[no-exit-message]
status *args: _setup
    @{{python}} scripts/check_status.py "$@"

# why a run ended as it did, and what to do next
[group('watch')]
[no-exit-message]
why *args: _setup
    @{{python}} scripts/why.py "$@"

# the log of a run, from its first second; -f
[group('watch')]
[no-exit-message]
logs *args: _setup
    @{{python}} scripts/logs.py "$@"

# a shell on a run's instance, or a command there
[group('watch')]
[no-exit-message]
ssh *args: _setup
    @{{python}} scripts/ssh.py "$@"

# status every 60 (or N) s until the run's verdict
[group('watch')]
[no-exit-message]
watch *args: _setup
    @{{python}} scripts/check_status.py --watch "$@"

# every run so far: verdict, cost, date
[group('watch')]
[no-exit-message]
runs *args: _setup
    @{{python}} scripts/runs.py "$@"

# what all runs cost: by run, month and phase
[group('watch')]
[no-exit-message]
costs *args: _setup
    @{{python}} scripts/costs.py "$@"

# a run as one HTML page: money, curves, answers
[group('watch')]
[no-exit-message]
report *args: (_setup "report")
    @{{python}} scripts/report.py "$@"

# wait silently for a run's verdict
[group('watch')]
[no-exit-message]
wait *args: _setup
    @{{python}} scripts/wait.py "$@"

# end a run: save, upload, delete; --now: delete
[group('watch')]
[no-exit-message]
stop *args: _setup
    @{{python}} scripts/stop.py "$@"

# change the spend limit of a running run
[group('watch')]
[no-exit-message]
limit *args: _setup
    @{{python}} scripts/limit.py "$@"

# delete instances that are done or past their limit
[group('watch')]
[no-exit-message]
guard *args: _setup
    @{{python}} scripts/guard.py "$@"

# send a test to NOTIFY_URL
[group('watch')]
[no-exit-message]
notify *args: (_setup "train")
    @{{python}} scripts/notify.py "$@"

# unattended instances that bill
[group('watch')]
[no-exit-message]
orphans *args: _setup
    @{{python}} scripts/orphans.py "$@"

# your checkpoints, tokenizer and data to the Hub
[group('model')]
[no-exit-message]
upload *args: _setup
    @{{python}} scripts/upload.py "$@"

# what the Hub holds: sizes, proof; --adopt proves
[group('model')]
[no-exit-message]
verify *args: _setup
    @{{python}} scripts/verify.py "$@"

# train on this machine's own GPUs, without a cloud
[group('model')]
[no-exit-message]
train-here *args: (_setup "train")
    @{{python}} scripts/train_here.py "$@"

# whether this machine's GPUs work, and how fast
[group('model')]
[no-exit-message]
gpu-check *args: (_setup "train")
    @{{python}} scripts/gpu_check.py "$@"

# download a proven checkpoint to nanochat's folder
[group('model')]
[no-exit-message]
pull *args: _setup
    @{{python}} scripts/pull.py "$@"

# talk to your model on this machine
[group('model')]
[no-exit-message]
chat *args: (_setup "train")
    @{{python}} scripts/chat.py "$@"

# a checkpoint as files for transformers
[group('model')]
[no-exit-message]
export-hf *args: (_setup "train")
    @{{python}} scripts/export_hf.py "$@"

# write identity_conversations.jsonl
[group('model')]
[no-exit-message]
identity *args: _setup
    @{{python}} scripts/identity.py "$@"

# the Hub's own command line, as installed here
[group('tools')]
[no-exit-message]
hf *args: _setup
    @{{python}} scripts/hf.py "$@"

# a local Shadeform and Hub to play with
[group('tools')]
[no-exit-message]
sim *args: (_setup "train")
    @{{python}} scripts/sim.py "$@"

# the quick tests, PyPI wheels only (8 minutes)
[group('dev')]
[no-exit-message]
test *args: (_setup "dev")
    @{{python}} -m pytest -n 4 --dist worksteal -m "not slow and not system" "$@"

# all tests, the slow ones too
[group('dev')]
[no-exit-message]
test-all *args: (_setup "dev")
    @{{python}} -m pytest -n 4 --dist worksteal "$@"

# the quick tests on every Python here: 3.13 tests/cli
[group('dev')]
[no-exit-message]
test-pythons *args: (_setup "dev")
    @{{python}} -m tests.pythons "$@"

# fuzz all targets or named ones, minutes=10 each
[group('dev')]
[no-exit-message]
fuzz *args: (_setup "dev")
    @{{python}} -m tests.fuzz "$@"

# random mutations: does a test fail? count=60
[group('dev')]
[no-exit-message]
mutate *args: (_setup "mutation")
    @{{python}} -m tests.mutations "$@"

# ruff, mypy and shellcheck
[group('dev')]
[no-exit-message]
lint: (_setup "dev")
    @.venv/bin/ruff format --check --quiet . && .venv/bin/ruff check . && .venv/bin/mypy && .venv/bin/shellcheck just scripts/*.sh cloud/boot.sh .ci/run

# benchmarks, as ratios
[group('dev')]
[no-exit-message]
bench *args: (_setup "dev")
    @{{python}} -m tests.bench "$@"

# draw the README's pictures from a rehearsal
[group('dev')]
[no-exit-message]
pictures *args: (_setup "dev")
    @{{python}} -m tests.pictures "$@"

# known vulnerabilities of the pins; --tree
[group('dev')]
[no-exit-message]
audit *args: (_setup "light")
    @sh scripts/audit.sh "$@"

# pin every package by version and hash
[group('dev')]
[no-exit-message]
pins *args: (_setup "dev")
    @sh scripts/pins.sh "$@"

_setup set="light":
    @sh scripts/setup.sh "{{set}}"
