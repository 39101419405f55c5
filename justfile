# nanolan: one command from your laptop to a trained checkpoint on the Hub, and the rented GPUs gone.
# Every recipe is one line over scripts/; `./just RECIPE --help` shows its options.

set positional-arguments

# A machine-wide setting of this costs every command its compiled files; empty means unset
export PYTHONDONTWRITEBYTECODE := ""
# These would bring other packages, or no Python at all
export PYTHONPATH := ""
export PYTHONHOME := ""

# Paths count from where they were typed, not from the checkout
export NANOLAN_CALLED_FROM := invocation_directory()

python := ".venv/bin/python"

_default:
    @"{{just_executable()}}" --list --unsorted
    @echo "just RECIPE --help: options, examples. Try: just rehearse; then: just doctor"

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

# go on with a run that ended short
[group('run')]
[no-exit-message]
resume *args: _setup
    @{{python}} scripts/resume.py "$@"

# what can be rented now, and what a run costs there
[group('run')]
[no-exit-message]
offers *args: _setup
    @{{python}} scripts/offers.py "$@"

# where every run is, what it costs, what is proven
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

# a shell on a run's machine, or a command there
[group('watch')]
[no-exit-message]
ssh *args: _setup
    @{{python}} scripts/ssh.py "$@"

# status every 60 (or N) s until the end; its verdict
[group('watch')]
[no-exit-message]
watch *args: _setup
    @{{python}} scripts/check_status.py --watch "$@"

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

# wait quietly for a run's end; its verdict
[group('watch')]
[no-exit-message]
wait *args: _setup
    @{{python}} scripts/wait.py "$@"

# end a run: save, upload, delete; --now: delete
[group('watch')]
[no-exit-message]
stop *args: _setup
    @{{python}} scripts/stop.py "$@"

# another spend limit for a run that is going
[group('watch')]
[no-exit-message]
limit *args: _setup
    @{{python}} scripts/limit.py "$@"

# delete machines that are done or past their limit
[group('watch')]
[no-exit-message]
guard *args: _setup
    @{{python}} scripts/guard.py "$@"

# send a test to NOTIFY_URL
[group('watch')]
[no-exit-message]
notify *args: (_setup "train")
    @{{python}} scripts/notify.py "$@"

# what bills without being looked after
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

# a proven checkpoint to where nanochat looks for it
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
    @{{python}} -m nanolan.model.export_hf "$@"

# write identity_conversations.jsonl: who it is
[group('model')]
[no-exit-message]
identity *args: _setup
    @{{python}} scripts/identity.py "$@"

# the Hub's own command line, as installed here
[group('tools')]
[no-exit-message]
hf *args: _setup
    @.venv/bin/hf "$@"

# a local Shadeform and Hub to play with
[group('tools')]
[no-exit-message]
sim *args: (_setup "train")
    @{{python}} scripts/sim.py "$@"

# print what your shell sources to complete all this
[group('tools')]
[no-exit-message]
completions *args: _setup
    @{{python}} scripts/completions.py "$@"

# the tests that need PyPI wheels only (6 minutes)
[group('dev')]
[no-exit-message]
test *args: (_setup "dev")
    @{{python}} -m pytest -n 4 -m "not slow and not system" "$@"

# all tests, the slow ones too
[group('dev')]
[no-exit-message]
test-all *args: (_setup "dev")
    @{{python}} -m pytest -n 2 "$@"

# made-up inputs for minutes=10 each, or names of some
[group('dev')]
[no-exit-message]
fuzz *args: (_setup "dev")
    @{{python}} -m tests.fuzz "$@"

# ruff, mypy and shellcheck
[group('dev')]
[no-exit-message]
lint: (_setup "dev")
    @.venv/bin/ruff format --check --quiet . && .venv/bin/ruff check . && .venv/bin/mypy && .venv/bin/shellcheck just scripts/*.sh cloud/boot.sh .ci/run

# what is fast and what is not, as ratios
[group('dev')]
[no-exit-message]
bench *args: (_setup "dev")
    @{{python}} -m tests.bench "$@"

# known vulnerabilities of the pins; --tree: reviews
[group('dev')]
[no-exit-message]
audit *args: (_setup "light")
    @sh scripts/audit.sh "$@"

# pin every package again, by version and hash
[group('dev')]
[no-exit-message]
pins *args: (_setup "dev")
    @sh scripts/pins.sh "$@"

_setup set="light":
    @sh scripts/setup.sh "{{set}}"
