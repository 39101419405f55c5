#!/bin/sh
# Makes .venv and installs one set of requirements; the only installer, on laptops and boxes alike.
#     sh scripts/setup.sh tools|light|report|box|train|wandb|dev|mutation
# tools: uv and just. light: the laptop commands. report: + charts. box: + what an instance needs for a trainer of yours.
# train: + our own trainer. wandb: + wandb. dev: + tests and linters.
# mutation: + what changes the code at random, for `just mutate`.
# NANOLAN_DEVICE: cuda (a rented machine: never a CPU build of PyTorch), cpu, or unset: what is here.
# Safe to run twice, twice at once, or after a Ctrl-C; does nothing when all is in place.
# shellcheck disable=SC3043  # `local` is in every sh we meet (dash, bash, zsh, busybox)
set -eu
unset CDPATH
cd "$(dirname "$0")/.."
want=${1:-light}
lock=.venv.lock
say() { echo "nanolan: $*" >&2; }
fail() { say "$*"; exit 1; }

# Of your settings of Python, pip and uv only those count that say where packages come from and how they are reached
for name in $(env | sed -n -e 's/^\(PYTHON[A-Z]*\)=.*/\1/p' -e 's/^\(PIP_[A-Z_]*\)=.*/\1/p' -e 's/^\(UV_[A-Z_]*\)=.*/\1/p'); do
    case $name in
        *INDEX* | *FIND_LINKS* | *CACHE* | *CERT* | *HOST* | *PROXY* | *TIMEOUT* | *RETRIES | *TLS | *OFFLINE | *KEYRING* | *CONFIG_FILE) ;;
        UV_CONCURRENT_* | UV_LINK_MODE | UV_PYTHON_* | PYTHONDONTWRITEBYTECODE) ;;
        *) unset "$name" ;;
    esac
done
unset VIRTUAL_ENV CONDA_PREFIX name

driver() {  # the version of the NVIDIA driver; nvidia-smi may print warnings beside it, and its exit code may be that of one
    nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | sed -n 's/^\([0-9][0-9]*\)\.[0-9.]*.*$/\1/p' | head -n 1
}
torch_build() {  # cpu, cu12 or cu13. PyPI's 2.11+ are built for CUDA 13, which needs driver 580
    local version
    [ "${NANOLAN_DEVICE:-}" != cpu ] || { echo cpu; return; }
    version=$(driver)
    if [ -n "$version" ]; then
        if [ "$version" -ge 580 ]; then echo cu13; else echo cu12; fi
    elif [ "${NANOLAN_DEVICE:-}" = cuda ] || [ "$(uname -s)" != Linux ] || nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then echo cu13
    else echo cpu; fi
}
# Changed pins, a moved checkout, or on a rented machine another build of PyTorch: set up again.
stamp="$want $(cat pyproject.toml constraints*.txt | cksum) $PWD"
if [ "${NANOLAN_DEVICE:-}" = cuda ]; then stamp="$stamp $(torch_build)"; fi
cpu_build() {  # whether a CPU build of PyTorch lies in .venv
    # shellcheck disable=SC2144  # there is one at most
    [ -e .venv/lib/python3*/site-packages/torch-*+cpu.dist-info ]
}
# On a machine of your own a driver may come up later. nvidia-smi takes a second: it is asked beside a CPU build only
outgrown() { [ -z "${NANOLAN_DEVICE:-}" ] && cpu_build && [ "$(torch_build)" != cpu ]; }
ready() { [ -x .venv/bin/python ] && [ "$(cat ".venv/.ready-$1" 2>/dev/null)" = "$1${stamp#"$want"}" ]; }
any_ready() { for name in "$@"; do ready "$name" && return 0; done; return 1; }
have() {
    case $want in
        tools) [ -x .venv/bin/just ] && [ -x .venv/bin/uv ] ;;
        light) any_ready light report box train wandb dev mutation ;;
        report) any_ready report box train wandb dev mutation ;;
        box) any_ready box train wandb dev mutation ;;
        train) any_ready train wandb dev mutation && ! outgrown ;;
        wandb) any_ready wandb dev mutation && ! outgrown ;;
        dev) any_ready dev mutation && ! outgrown ;;
        mutation) ready mutation && ! outgrown ;;
        *) fail "setup: no set called '$want' (tools, light, report, box, train, wandb, dev, mutation)" ;;
    esac
}

take_lock() {  # mkdir is atomic everywhere; a lock whose owner is gone is taken over
    local waited=0 owner
    until mkdir "$lock" 2>/dev/null; do
        [ -d "$lock" ] || [ -w . ] || fail "cannot write in $PWD: clone nanolan to a folder of your own"
        owner=$(cat "$lock/pid" 2>/dev/null || true)
        if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then rm -rf "$lock"; continue; fi
        if [ -z "$owner" ] && [ "$waited" -ge 5 ]; then rm -rf "$lock"; continue; fi
        [ "$waited" -eq 1 ] && say "another set-up is running in this folder; waiting for it"
        [ "$waited" -lt 900 ] || fail "still locked after 15 minutes; if nothing runs: rm -r '$PWD/$lock'"
        sleep 1; waited=$((waited + 1))
    done
    echo $$ > "$lock/pid"
    trap 'rm -rf "$lock"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

find_uv() {  # $UV: a uv that the machine brings along
    local c
    for c in "${UV:-}" "$(command -v uv 2>/dev/null || true)" .venv/bin/uv; do
        if [ -n "$c" ] && [ -x "$c" ]; then uv=$c; return 0; fi
    done
    return 1
}

pip_uv() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt; }

make_venv() {
    [ "$(cat .venv/.made 2>/dev/null)" = "$PWD" ] && [ -x .venv/bin/python ] && return 0
    say "first run: setting up .venv"
    rm -rf .venv   # half made by a Ctrl-C, or moved here from another folder
    if find_uv; then
        "$uv" venv --quiet --python '>=3.10' .venv || fail "uv could not make .venv (see above)"
    else
        command -v python3 >/dev/null || fail "python3 is missing; install Python 3.10 or newer"
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
            fail "python3 is $(python3 -V 2>&1); nanolan needs 3.10 or newer (or install uv, which brings its own)"
        python3 -c 'import ensurepip' 2>/dev/null ||
            fail "python3 cannot make virtual environments here; run: sudo apt install python3-venv"
        python3 -m venv .venv
        awk '/^[^ ]/ { on = /^uv==/ } on' constraints.txt >.venv/uv.txt
        pip_uv 2>.venv/pip.log || PIP_CONFIG_FILE=/dev/null pip_uv 2>>.venv/pip.log ||   # a pip.conf with user or target
            { cat .venv/pip.log >&2; fail "could not install uv: is PyPI reachable? Then run the same command again"; }
    fi
    echo "$PWD" > .venv/.made
}

# Every file is checked against the hashes in constraints*.txt
install() { "$uv" pip install --quiet --python .venv/bin/python -c constraints.txt "$@"; }

install_torch() {
    local build cpu
    build=$(torch_build)
    say "installing PyTorch and the other packages of the '$want' set, once: $([ "$build" = cpu ] && echo 1.5 || echo 5) GB on the disk"
    if [ "${NANOLAN_DEVICE:-}" = cuda ] && ! nvidia-smi -L 2>/dev/null | grep '^GPU ' >/dev/null; then
        fail "the NVIDIA driver does not answer: without it no PyTorch for GPUs is installed, and no other one here"
    fi
    if [ "$build" = cpu ]; then   # PyPI's would bring its CUDA libraries all the same
        cpu='torch>=2.7,<2.14'   # a CPU build has no hash here: PyTorch's own index is believed, or your UV_FIND_LINKS
        if [ -n "$UV_FIND_LINKS" ]; then install "$cpu" "$@"; return; fi
        install --torch-backend cpu "$cpu" "$@" 2>/dev/null && return 0
        say "PyTorch's index of CPU builds did not answer; taking PyPI's build with CUDA instead, about 3 GB (Ctrl-C stops it)"
        build=cu13
    fi
    if cpu_build; then set -- --reinstall-package torch "$@"; fi
    install -c "constraints-$build.txt" torch "$@"
}

link_project() {  # nanolan itself is not built here, which would take a build backend that is not pinned: Python finds it in this folder
    local site
    for site in .venv/lib/python3*/site-packages; do
        if [ -d "$site" ]; then echo "$PWD" >"$site/nanolan.pth"; fi
    done
}

install_set() {
    # pip reads PIP_FIND_LINKS by itself; uv reads only its own name, and wants commas
    UV_FIND_LINKS="${UV_FIND_LINKS:-$(echo "${PIP_FIND_LINKS:-}" | tr -s ' ' ',')}"
    export UV_FIND_LINKS
    case $want in
        tools) install rust-just uv ;;
        light) install --compile-bytecode -r pyproject.toml ;;
        report) install --compile-bytecode -r pyproject.toml --extra report ;;
        box) install --compile-bytecode -r pyproject.toml --extra box ;;
        train) install_torch -r pyproject.toml --extra train ;;
        wandb) install_torch -r pyproject.toml --extra train --extra wandb ;;
        dev) install_torch -r pyproject.toml --extra train --extra wandb --extra dev ;;
        mutation) install_torch -r pyproject.toml --extra train --extra wandb --extra dev --extra mutation ;;
    esac || fail "installing the '$want' set failed (see above): is PyPI reachable? Then run the same command again"
}

have && exit 0
take_lock
have && exit 0
make_venv
find_uv || fail "no uv in .venv; run: rm -r .venv, then the same command again"
install_set
[ "$want" = tools ] || link_project
echo "$stamp" > ".venv/.ready-$want"
