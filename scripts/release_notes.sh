#!/bin/sh
# Prints the part of CHANGELOG.md for a tag; refuses a tag that is not the version, or one without a dated part.
#     sh scripts/release_notes.sh v0.2.0
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^VERSION = "\(.*\)"$/\1/p' nanolan/version.py)
[ "${1:-}" = "v$version" ] || { echo "the tag is '${1:-}', nanolan/version.py says $version" >&2; exit 1; }
notes=$(awk -v head="## [$version] - 20" 'index($0, "## [") == 1 { on = index($0, head) == 1; next } /^\[/ { on = 0 } on' CHANGELOG.md)
[ -n "$notes" ] || { echo "CHANGELOG.md has no part '## [$version] - DATE'" >&2; exit 1; }
echo "$notes"
