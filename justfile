# nanolan: one command from your laptop to a trained checkpoint on the Hub, and the rented GPUs gone.
# Every recipe is one line over scripts/; `./just RECIPE --help` shows its options.

set positional-arguments

# A machine-wide setting of this costs every command its compiled files; empty means unset
export PYTHONDONTWRITEBYTECODE := ""

python := ".venv/bin/python"

_default:
    @"{{just_executable()}}" --list --unsorted

# rehearse a whole run on this machine: nothing rented, no keys, no network
[group('run')]
[no-exit-message]
rehearse *args: (_setup "train")
    @{{python}} scripts/rehearse.py "$@"

# play every fault for real and print what was saved, lost and paid (about 10 minutes)
[group('run')]
[no-exit-message]
rehearse-faults *args: (_setup "train")
    @{{python}} scripts/rehearse_faults.py "$@"

# what a launch would do and cost; rents nothing, asks nothing
[group('run')]
[no-exit-message]
dry-run *args: _setup
    @{{python}} scripts/launch.py --dry-run "$@"

# rent, train, upload, prove, delete:  just launch phase=sft gpu=H100 spend-limit=100
[group('run')]
[no-exit-message]
launch *args: _setup
    @{{python}} scripts/launch.py "$@"

# go on with a run that ended short, on a new machine:  just resume RUN
[group('run')]
[no-exit-message]
resume *args: _setup
    @{{python}} scripts/resume.py "$@"

# what can be rented now, and what the run would cost there
[group('run')]
[no-exit-message]
offers *args: _setup
    @{{python}} scripts/offers.py "$@"

# where every run is, what it costs, what is proven on the Hub
[group('watch')]
[no-exit-message]
status *args: _setup
    @{{python}} scripts/check_status.py "$@"

# why a run ended as it did, what was saved and lost, and what to do next:  just why RUN
[group('watch')]
[no-exit-message]
why *args: _setup
    @{{python}} scripts/why.py "$@"

# the log of a run, from its first second; -f follows it:  just logs RUN -f
[group('watch')]
[no-exit-message]
logs *args: _setup
    @{{python}} scripts/logs.py "$@"

# a shell on the machine of a run, or one command there:  just ssh RUN nvidia-smi
[group('watch')]
[no-exit-message]
ssh *args: _setup
    @{{python}} scripts/ssh.py "$@"

# status again every 60 (or N) seconds until the run ends; exits with its verdict
[group('watch')]
[no-exit-message]
watch *args: _setup
    @{{python}} scripts/check_status.py --watch "$@"

# what all runs cost: by run, month and phase
[group('watch')]
[no-exit-message]
costs *args: _setup
    @{{python}} scripts/costs.py "$@"

# wait quietly until a run has ended; the exit code is its verdict
[group('watch')]
[no-exit-message]
wait *args: _setup
    @{{python}} scripts/wait.py "$@"

# check a checkpoint on the Hub against its manifest; --adopt writes one for files uploaded by hand
[group('watch')]
[no-exit-message]
verify *args: _setup
    @{{python}} scripts/verify.py "$@"

# end a run: it saves, uploads and deletes itself; --now deletes at once:  just stop RUN
[group('watch')]
[no-exit-message]
stop *args: _setup
    @{{python}} scripts/stop.py "$@"

# what bills on the account without being looked after
[group('watch')]
[no-exit-message]
orphans *args: _setup
    @{{python}} scripts/orphans.py "$@"

# train on this machine's own GPU(s), without a cloud:  just train-here phase=sft
[group('model')]
[no-exit-message]
train-here *args: (_setup "train")
    @{{python}} scripts/train_here.py "$@"

# bring a proven checkpoint to where nanochat's own tools find it
[group('model')]
[no-exit-message]
pull *args: _setup
    @{{python}} scripts/pull.py "$@"

# talk to it here:  just chat   or   just chat -p "Who are you?"
[group('model')]
[no-exit-message]
chat *args: (_setup "train")
    @{{python}} scripts/chat.py "$@"

# a checkpoint as Hugging Face files:  just export-hf CHECKPOINT_FOLDER TOKENIZER_FOLDER TARGET_FOLDER
[group('model')]
[no-exit-message]
export-hf *args: (_setup "train")
    @{{python}} -m nanolan.train.export "$@"

# write identity_conversations.jsonl: who your model is
[group('model')]
[no-exit-message]
identity *args: _setup
    @{{python}} scripts/identity.py "$@"

# the Hub's own command line, as installed here
[group('tools')]
[no-exit-message]
hf *args: _setup
    @.venv/bin/hf "$@"

# a local Shadeform and a local Hub to play with; prints the environment to export
[group('tools')]
[no-exit-message]
sim *args: (_setup "train")
    @{{python}} scripts/sim.py "$@"

# the tests that need nothing but PyPI wheels (under 6 minutes)
[group('dev')]
[no-exit-message]
test *args: (_setup "dev")
    @{{python}} -m pytest -n 2 -m "not slow and not system" "$@"

# all tests, also the slow ones and those that need a system package
[group('dev')]
[no-exit-message]
test-all *args: (_setup "dev")
    @{{python}} -m pytest -n 2 "$@"

# ruff, mypy and shellcheck
[group('dev')]
[no-exit-message]
lint: (_setup "dev")
    @.venv/bin/ruff check . && .venv/bin/mypy && .venv/bin/shellcheck just scripts/setup.sh cloud/boot.sh .ci/run

# what is fast and what is not, as ratios within one run;  just bench train  for the trainer
[group('dev')]
[no-exit-message]
bench *args: (_setup "dev")
    @{{python}} scripts/bench.py "$@"

# write constraints.txt anew (everything but torch and what torch brings)
[group('dev')]
pins: (_setup "dev")
    @.venv/bin/uv pip compile -q --universal --python-version 3.10 --extra train --group dev --no-emit-package torch --no-emit-package triton --no-annotate --no-header pyproject.toml | grep -vE '^(nvidia|cuda)-' > constraints.new && mv constraints.new constraints.txt

_setup set="light":
    @sh scripts/setup.sh "{{set}}"
