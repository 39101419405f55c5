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
STATE=$HOME/.nanolan
LOG=$ROOT/var/log/lanbot-training.log
mkdir -p "$STATE" "$ROOT/var/log" "$ROOT/run/nanolan"; touch "$LOG" && chmod 644 "$LOG"
exec >>"$LOG" 2>&1 </dev/null

say() { echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) boot: $*"; }
unpack() { printf %s "$1" | python3 -c 'import base64, sys; sys.stdout.buffer.write(base64.b64decode(sys.stdin.read()))'; }
STEP="unpack the plan"
failed() {
    trap - ERR
    say "FAILED: $STEP; uploading this log and giving the machine up"
    exec python3 "$STATE/rescue.py" fail "$STEP"
}
trap failed ERR

say "run $RUN_ID"; [ -s "$STATE/booted" ] || date +%s >"$STATE/booted"   # the receipt tells the boot from the set-up
unpack "$RESCUE_B64" >"$STATE/rescue.py"
unpack "$PLAN_B64" >"$STATE/plan.json"
ln -sfn "$ROOT/run/nanolan/secrets.json" "$STATE/secrets.json"   # in memory where /run is, and until the machine is gone
unpack "$SECRETS_B64" >"$STATE/secrets.json"                     # 0600 by umask

STEP="arm the dead man's timer"   # the third clock: it can do nothing but delete; a second one ends at once
nohup python3 "$STATE/rescue.py" deadman "$DEADLINE" &

STEP="hand over to systemd"       # restarts this script after a crash or a reboot
if [ -z "$ROOT" ] && [ -d /run/systemd/system ] && [ -z "${NANOLAN_UNIT:-}" ] && [ -r "$0" ]; then
    cp "$0" "$STATE/start.sh"
    printf '%s\n' '[Unit]' 'After=network-online.target' 'StartLimitIntervalSec=0' '[Service]' \
        'Environment=NANOLAN_UNIT=1' "ExecStart=/bin/bash $STATE/start.sh" 'Restart=on-failure' 'RestartSec=5' \
        '[Install]' 'WantedBy=multi-user.target' >/etc/systemd/system/nanolan.service
    systemctl daemon-reload
    if systemctl enable --now nanolan.service; then exit 0; fi
    say "systemd would not take it; going on without"
fi

STEP="find $MIN_FREE_GB GB of free disk"
if [ ! -s "$STATE/work" ]; then   # the biggest of the home's disk and all others; in a rehearsal only the box's folder
    disks() { df -Pk "$HOME"; if [ -z "$ROOT" ]; then df -Pk; fi; }
    mount=$(disks | awk '$1 ~ "^/dev/" || NR == 2 {print $4, $6}' | sort -rn | head -n 1 | cut -d' ' -f2-)
    WORK=${ROOT:-${mount%/}}/nanolan
    mkdir -p "$WORK"
    free_gb=$(($(df -Pk "$WORK" | awk 'NR == 2 {print $4}') / 1000000))
    say "work folder $WORK, $free_gb GB free"
    [ "$free_gb" -ge "$MIN_FREE_GB" ]
    echo "$WORK" >"$STATE/work"   # a restart finds its own files there, and the disk fuller
fi
WORK=$(cat "$STATE/work"); umask 022; mkdir -p "$WORK"; chmod 755 "$WORK"   # the trainer's user reads what is there

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
