#!/bin/sh
# Writes constraints*.txt anew: every package that an installation can take, by version and by the hashes of its files.
#     sh scripts/pins.sh [uv options, such as --upgrade-package requests; --upgrade for all]
# constraints.txt: all but PyTorch. constraints-cu13.txt, constraints-cu12.txt: PyPI's PyTorch for new and for older drivers.
set -eu
cd "$(dirname "$0")/.."
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
compile() { .venv/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-annotate --no-header "$@"; }
only() {  # the blocks of lines whose package's name matches (or, with "!", does not)
    awk -v name="$1" -v other="${2:-}" '/^[^ ]/ { on = ($0 ~ name) != (other == "!") } on'
}
torch='^(torch|triton|nvidia|cuda)[-=]'

cp constraints.txt "$temp/all.txt"   # what is there already stays, but for what the options name
compile --extra train --extra wandb --extra dev --extra mutation --extra tools -o "$temp/all.txt" "$@" pyproject.toml >/dev/null
only "$torch" '!' <"$temp/all.txt" >"$temp/constraints.txt"
for pair in "13 2.13.*" "12 2.10.*"; do
    cuda=${pair% *}
    echo "torch==${pair#* }" >"$temp/torch.in"
    cp "constraints-cu$cuda.txt" "$temp/torch.txt" 2>/dev/null || true
    compile -c "$temp/constraints.txt" -o "$temp/torch.txt" "$@" "$temp/torch.in" >/dev/null
    only "$torch" <"$temp/torch.txt" >"$temp/constraints-cu$cuda.txt"
done
cp "$temp"/constraints*.txt .
