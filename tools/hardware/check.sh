#!/bin/sh
# Confirms trinity-mlx on a machine with a GPU: run from a clone, with Python 3.11 or later and uv or pip at hand.
#
#     tools/hardware/check.sh [DEVICE] [FOLDER]
#
# DEVICE is cuda, mps (torch on a Mac) or gpu (MLX on a Mac); by default what this machine has. FOLDER receives one file
# for each step and a summary; send it as it is (it names no host and no user). A step that fails is written down, and
# the others go on; the script exits with 1 where any failed.
set -u

cd "$(dirname "$0")/../.." || exit 2
case "$(uname -s)-$(uname -m)" in
    Darwin-arm64) default=gpu ;;
    Linux-*) default=cuda ;;
    *) echo "no GPU lane for this machine: $(uname -s) $(uname -m)" >&2; exit 2 ;;
esac
device=${1:-$default}
case "$device" in
    cuda) profile=cuda ;;
    mps) profile=mps ;;
    gpu) profile=mlx ;;
    *) echo "DEVICE is cuda, mps or gpu, not $device" >&2; exit 2 ;;
esac
out=${2:-hardware-$device-$(date +%Y-%m-%d)}
mkdir -p "$out" || exit 2
failed=0

step() {
    name=$1
    shift
    echo "== $name: $*"
    if "$@" > "$out/$name.txt" 2>&1; then
        echo "$name: passed" >> "$out/summary.txt"
    else
        echo "$name: FAILED with $? (see $name.txt)" >> "$out/summary.txt"
        failed=1
    fi
}

: > "$out/summary.txt"
step doctor trinity-mlx doctor --deep "$out/doctor.json"
step tests python -m pytest -q tests/backends tests/routing/test_variants.py --device "$device"
step tests-full-size python -m pytest -q tests/routing/test_full_size.py -m slow --device "$device"
step certify trinity-mlx certify --artifact nano --profile "$profile" --out "$out/lane-nano.json"
step benchmark-route python benchmarks/route.py --profile "$profile" --json "$out/route.json"
step benchmark-lanes python benchmarks/lanes.py --profiles "$profile" --json "$out/lanes.json"
step benchmark-export python benchmarks/export.py --json "$out/export.json"
cat "$out/summary.txt"
exit $failed
