#!/bin/sh
# Looks up every pinned package in OSV's list of known vulnerabilities; exit code 1 if one is there or the list does not answer.
#     sh scripts/audit.sh [pip-audit options, such as --ignore-vuln ID]
#     sh scripts/audit.sh --tree      which package brings which, as installed here, and what is newer (asks PyPI)
# Each direct dependency has its reason in pyproject.toml.
set -eu
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
[ -x "$uv" ] || uv=uv
if [ "${1:-}" = --tree ]; then exec "$uv" pip tree --python .venv/bin/python --outdated; fi
found=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for pins in constraints*.txt; do
    echo "$pins:"
    "$uv" tool run --quiet --constraints constraints.txt pip-audit --require-hashes --disable-pip --progress-spinner off \
        --vulnerability-service osv "$@" --requirement "$pins" 2>"$log" || found=1
    grep -v '^WARNING' "$log" | tail -n 1   # of a traceback the line that says what happened
done
exit $found
