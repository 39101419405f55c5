# shellcheck shell=bash
# What the rented machine runs first, as root. The launcher puts the values of the ": ${...}" line in front.
# It ends as the box program (cloud/train.py); every failed step uploads this log and gives the machine up.
# Run again (a reboot, a restart by systemd) it takes up where it was. BOX_ROOT is empty on a real machine.
set -Eeuo pipefail
umask 077; ulimit -c 0       # a core dump would hold secrets
: "${RUN_ID:?}" "${SETUP:?}" "${MIN_FREE_GB:?}" "${DEADLINE:?}" "${CODE_URL:?}" "${CODE_SHA256:?}" \
  "${PLAN_B64:?}" "${SECRETS_B64:?}" "${RESCUE_B64:?}"
ROOT=${BOX_ROOT:-}
export HOME=$ROOT/root LC_ALL=C.UTF-8
STATE=$HOME/.nanolan RUN=$ROOT/run/nanolan       # RUN: in memory where /run is, and until the machine is gone
LOG=$ROOT/var/log/lanbot-training.log
{ mkdir -p "$ROOT/var/log" && touch "$LOG" && chmod 644 "$LOG"; } || LOG=/dev/null
exec >>"$LOG" 2>&1 </dev/null
trap '' HUP                  # for all that is started here, too

say() { echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) boot: $*" || :; }   # a full disk is no reason to end here
unpack() { printf %s "$1" | python3 -c 'import base64, sys; sys.stdout.buffer.write(base64.b64decode(sys.stdin.read()))'; }
STEP="unpack the plan"
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
    mkdir -p "$1" "$RUN" && keep "$1/rescue.py" "$RESCUE_B64" && keep "$1/plan.json" "$PLAN_B64" &&
        keep "$RUN/secrets.json" "$SECRETS_B64" && { [ -s "$1/secrets.json" ] || ln -sfn "$RUN/secrets.json" "$1/secrets.json"; }
}
say "run $RUN_ID"
settle "$STATE" || { say "$STATE takes nothing; going on in memory"; STATE=$RUN; settle "$STATE"; }
[ -s "$STATE/booted" ] || date +%s >"$STATE/booted" || :         # the receipt tells the boot from the set-up

STEP="arm the dead man's timer"   # the third clock: it can do nothing but delete; a second one ends at once
nohup python3 "$STATE/rescue.py" deadman "$DEADLINE" &

STEP="hand over to systemd"       # restarts this script after a crash or a reboot
hand_over() {
    cp "$0" "$STATE/start.sh.new" && mv -f "$STATE/start.sh.new" "$STATE/start.sh" &&
        printf '%s\n' '[Unit]' 'After=network-online.target' 'StartLimitIntervalSec=0' '[Service]' \
            'Environment=NANOLAN_UNIT=1' "ExecStart=/bin/bash $STATE/start.sh" 'Restart=on-failure' 'RestartSec=5' \
            '[Install]' 'WantedBy=multi-user.target' >"$ROOT/etc/systemd/system/nanolan.service" &&
        systemctl daemon-reload && systemctl enable --now nanolan.service
}
if [ -d "$ROOT/run/systemd/system" ] && [ -z "${NANOLAN_UNIT:-}" ] && [ -r "$0" ]; then
    if hand_over; then exit 0; fi
    say "systemd would not take it; going on without"
fi

STEP="find $MIN_FREE_GB GB of free disk"
if [ -s "$STATE/work" ]; then WORK=$(cat "$STATE/work"); else   # the biggest of the home's disk and all others; in a rehearsal only the box's folder
    disks() { df -Pk "$HOME"; if [ -z "$ROOT" ]; then df -Pk; fi; }
    mount=$(disks | awk '$1 ~ "^/dev/" || NR == 2 {print $4, $6}' | sort -rn | head -n 1 | cut -d' ' -f2-)
    WORK=${ROOT:-${mount%/}}/nanolan
    mkdir -p "$WORK"
    free_gb=$(($(df -Pk "$WORK" | awk 'NR == 2 {print $4}') / 1000000))
    say "work folder $WORK, $free_gb GB free"
    [ "$free_gb" -ge "$MIN_FREE_GB" ]
    echo "$WORK" >"$STATE/work" || :   # a restart finds its own files there, and the disk fuller
fi
umask 022; mkdir -p "$WORK"; chmod 755 "$WORK"   # the trainer's user reads what is there

STEP="install a C compiler"       # torch.compile needs one, and Python's headers
if [ -z "$ROOT" ] && ! { command -v cc && command -v git && python3 -c 'import ensurepip' &&
    [ -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; }; then
    apt-get -o DPkg::Lock::Timeout=300 update
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y gcc git python3-dev python3-venv
fi

STEP="fetch the code"
if [ "$(cat "$WORK/code.sha256" 2>/dev/null)" != "$CODE_SHA256" ]; then
    python3 "$STATE/rescue.py" fetch "$CODE_URL" "$CODE_SHA256" "$WORK/code.bundle"
    rm -rf "$WORK/code"
    git init --quiet "$WORK/code"
    git -C "$WORK/code" fetch --quiet "$WORK/code.bundle" "refs/nanolan/$RUN_ID/nanolan"
    git -C "$WORK/code" checkout --quiet FETCH_HEAD
    echo "$CODE_SHA256" >"$WORK/code.sha256"
fi

STEP="install the '$SETUP' set"; say "$STEP"
cd "$WORK/code"
sh scripts/setup.sh "$SETUP" || { sleep 5; sh scripts/setup.sh "$SETUP"; }
say "starting the box program"
exec .venv/bin/python cloud/train.py "$STATE" "$WORK"
