# shellcheck shell=bash disable=SC2016  # the unit's and needrestart's $ are theirs
# What the rented machine runs first, as root. The launcher puts the values of the ": ${...}" line in front, and unpack().
# It ends as the box program (cloud/train.py); every failed step uploads this log and gives the machine up.
# Run again (a reboot, a restart by systemd) it takes up where it was. BOX_ROOT is empty on a real machine.
# It travels without its comments: one begins a line, or follows two spaces.
set -Eeuo pipefail
umask 077; ulimit -c 0       # a core dump would hold secrets
: "${RUN_ID:?}" "${SETUP:?}" "${DEVICE:?}" "${MIN_FREE_GB:?}" "${DEADLINE:?}" "${RUN_URL:?}" "${CODE_SHA256:?}" \
  "${PLAN_SHA256:?}" "${FACTS:?}" "${SECRETS:?}" "${RESCUE:?}"
ROOT=${BOX_ROOT:-}
export HOME=$ROOT/root LC_ALL=C.UTF-8 PATH=$ROOT/usr/bin:$PATH:/usr/sbin:/sbin    # dpkg looks for programs in sbin
STATE=$HOME/.nanolan RUN=$ROOT/run/nanolan       # RUN: in memory where /run is, and until the machine is gone
LOG=$ROOT/var/log/lanbot-training.log
PAUSE=10; [ -z "$ROOT" ] || PAUSE=0.5
user=0; [ -n "$ROOT" ] || user=$(id -u)   # a rehearsal needs no root
if [ "$user" != 0 ]; then
    if [ -r "$0" ] && sudo -n true; then exec sudo -n /bin/bash "$0"; fi
    STATE=$(mktemp -d) RUN=$STATE    # without it the step "become root" fails, which deletes the machine
fi
{ mkdir -p "$ROOT/var/log" && touch "$LOG" && chmod 644 "$LOG"; } || LOG=/dev/null
exec >>"$LOG" 2>&1 </dev/null
trap '' HUP                  # for all that is started here, too

say() { echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) boot: $*" || :; }   # a full disk is no reason to end here
STEP="unpack what came with this script"
failed() {
    trap - ERR; set +e
    say "FAILED: $STEP; uploading this log and giving the machine up"
    exec python3 "$STATE/rescue.py" fail "$STEP"
}
trap failed ERR

keep() {   # write a file whole; where the disk takes nothing, the one of an earlier boot will do
    { unpack "$2" >"$1.new" && mv -f "$1.new" "$1"; } || { rm -f "$1.new"; [ -s "$1" ]; }
}
settle() {   # all that it takes to save and to delete, in folder $1
    mkdir -p "$1" "$RUN" && keep "$1/rescue.py" "$RESCUE" && keep "$1/facts.json" "$FACTS" &&
        keep "$RUN/secrets.json" "$SECRETS" && { [ -s "$1/secrets.json" ] || ln -sfn "$RUN/secrets.json" "$1/secrets.json"; }
}
retry() {   # retry SECONDS COMMAND...: until it works, for so long, but twice at least; a rehearsal has less time
    local end=$((SECONDS + $1 / (${#ROOT} ? 60 : 1))) tried=; shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || [ -z "$tried" ] || return 1
        tried=yes
        say "$STEP: not yet, trying again"; sleep "$PAUSE"
    done
}
say "run $RUN_ID"
settle "$STATE" || { say "$STATE takes nothing; going on in memory"; STATE=$RUN; settle "$STATE"; }
[ -s "$STATE/booted" ] || date +%s >"$STATE/booted" || :         # the receipt tells the boot from the set-up

STEP="arm the dead man's timer"   # the third clock: it can do nothing but delete; a second one ends at once
nohup python3 "$STATE/rescue.py" deadman "$DEADLINE" &

STEP="become root"; [ "$user" = 0 ]

STEP="hand over to systemd"       # restarts this script after a crash or a reboot
# OOMPolicy: a rank that the kernel ends for its memory is the box program's to start again; by default systemd ends the whole unit.
# needrestart, which runs after each automatic upgrade of a library, would restart this unit, too, and steps would be lost.
hand_over() {
    cp "$0" "$STATE/start.sh.new" && mv -f "$STATE/start.sh.new" "$STATE/start.sh" &&
        printf '%s\n' '[Unit]' 'After=network-online.target' 'StartLimitIntervalSec=0' '[Service]' \
            'OOMPolicy=continue' 'Environment=NANOLAN_UNIT=1' "ExecStart=/bin/bash $STATE/start.sh" 'Restart=on-failure' 'RestartSec=5' \
            '[Install]' 'WantedBy=multi-user.target' >"$ROOT/etc/systemd/system/nanolan.service" &&
        { echo '$nrconf{override_rc}{qr(^nanolan)} = 0;' >"$ROOT/etc/needrestart/conf.d/nanolan.conf" || :; } 2>/dev/null &&
        systemctl daemon-reload && systemctl enable --now nanolan.service
}
if [ -d "$ROOT/run/systemd/system" ] && [ -z "${NANOLAN_UNIT:-}" ] && [ -r "$0" ]; then
    if hand_over; then exit 0; fi
    say "systemd would not take it; going on without"
fi

STEP="find $MIN_FREE_GB GB of free disk"
usable() {   # whether files can be written there, and run: torch.compile does so
    local file; file=$(mktemp "$1/nanolan.XXXXXX") && echo '#!/bin/sh' >"$file" && chmod 700 "$file" && "$file" && rm "$file"
}
if [ -s "$STATE/work" ]; then WORK=$(cat "$STATE/work"); else   # the biggest of the home's disk and all others; in a rehearsal only the box's folder
    disks() {   # df fails for one mount that cannot be read, and tells of all others
        df -Pk "$HOME" | tail -n 1 || :
        if [ -z "$ROOT" ]; then df -Pkl | grep '^/dev/' || :; fi
    }
    WORK=
    while read -r _ mount && WORK=${ROOT:-${mount%/}}/nanolan; do
        if mkdir -p "$WORK" && usable "$WORK"; then break; fi
    done < <(disks | awk '{free = $4; for (i = 0; i < 5; i++) sub(/^[^ ]+ +/, ""); print free, $0}' | sort -rn)
    usable "$WORK"
    free_gb=$({ df -Pk "$WORK" || :; } | awk 'NR == 2 {print int($4 / 1000000)}')
    say "work folder $WORK, $free_gb GB free"
    [ "$free_gb" -ge "$MIN_FREE_GB" ]
    echo "$WORK" >"$STATE/work" || :   # a restart finds its own files there, and the disk fuller
fi
umask 022; mkdir -p "$WORK"; chmod 755 "$WORK"   # the trainer's user reads what is there

STEP="install a C compiler"       # torch.compile needs one, and Python's headers
tools() {
    git --version >/dev/null && python3 -c 'import ensurepip' &&
        cc -fsyntax-only -include Python.h -I"$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')" -x c /dev/null
}
apt() {   # whoever else uses apt is waited for, no question is asked, and a wrong clock is no matter
    NEEDRESTART_MODE=l DEBIAN_FRONTEND=noninteractive "$ROOT/usr/bin/apt-get" -o DPkg::Lock::Timeout=60 -o Acquire::Retries=3 \
        -o Acquire::Check-Date=false -o Acquire::Check-Valid-Until=false -o Dpkg::Options::=--force-confold "$@"
}
install_tools() {   # what counts is what is there afterwards: one dead repository is no reason to give up
    "$ROOT/usr/bin/dpkg" --configure -a; apt update; apt install -y gcc git python3-dev python3-venv
    tools
}
if { [ -z "$ROOT" ] || [ -x "$ROOT/usr/bin/apt-get" ]; } && ! tools; then retry 600 install_tools; fi

STEP="wait for the NVIDIA driver" # it may come up after this script; without it no torch for GPUs is installed
driver() {   # its exit code may be that of a warning, and on a GPU that is gone it hangs
    local said limit=; if command -v timeout >/dev/null; then limit="timeout 60"; fi
    said=$($limit nvidia-smi -L || :)
    [[ $'\n'$said == *$'\n'"GPU "* ]] || { say "nvidia-smi: ${said:0:300}"; return 1; }
}
[ -e "$WORK/code/.venv/bin/python" ] || retry 300 driver   # after a restart what is here is to be saved, with a GPU or without

STEP="fetch the code"
fetch() { python3 "$STATE/rescue.py" fetch "$RUN_URL/$1" "$2" "$3"; }
fetch plan.json "$PLAN_SHA256" "$STATE/plan.json"
if [ "$(cat "$WORK/code.sha256" 2>/dev/null)" != "$CODE_SHA256" ]; then
    fetch code.bundle "$CODE_SHA256" "$WORK/code.bundle"
    rm -rf "$WORK/code"
    git init --quiet "$WORK/code"
    git -C "$WORK/code" fetch --quiet "$WORK/code.bundle" "refs/nanolan/$RUN_ID/nanolan"
    git -C "$WORK/code" checkout --quiet FETCH_HEAD
    echo "$CODE_SHA256" >"$WORK/code.sha256"
fi

STEP="install the '$SETUP' set"; say "$STEP"
cd "$WORK/code"
export XDG_CACHE_HOME=$WORK/cache   # of uv and pip: gigabytes that MIN_FREE_GB counts on this disk, not on root's
usable "${TMPDIR:-${ROOT:-/nowhere}}" || { export TMPDIR=$WORK/tmp; { mkdir -p "$TMPDIR" && chmod 1777 "$TMPDIR"; } || :; }
NANOLAN_DEVICE=$DEVICE retry 120 sh scripts/setup.sh "$SETUP"
say "starting the box program"
exec .venv/bin/python cloud/train.py "$STATE" "$WORK"
