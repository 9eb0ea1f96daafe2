#!/bin/sh
# Confirms trinity-mlx on a machine with a GPU: run from a clone, with Python 3.11 or later and uv or pip at hand.
#
#     tools/hardware/check.sh [DEVICE [FOLDER [STEP...]]]
#
# DEVICE is cuda, mps (torch on a Mac), gpu (MLX on a Mac) or cpu (to try the script itself); by default what this
# machine has. FOLDER receives one file for each step and a summary; send it as it is. Of the steps, doctor, certify and
# the benchmarks name no host and no user; what pytest prints of a failed test may name folders. STEPs are names as
# below, by default all. A step that fails is written down, and the others go on; the script exits with 1 where any
# failed.
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
    cpu) profile=cpu ;;
    *) echo "DEVICE is cuda, mps, gpu or cpu, not $device" >&2; exit 2 ;;
esac
out=${2:-hardware-$device-$(date +%Y-%m-%d)}
mkdir -p "$out" || exit 2
if [ $# -gt 2 ]; then shift 2; else set --; fi
wanted=" $* "
failed=0

step() {
    name=$1
    shift
    case "$wanted" in
        "  " | *" $name "*) ;;
        *) return ;;
    esac
    echo "== $name: $*"
    if "$@" > "$out/$name.txt" 2>&1; then
        echo "$name: passed" >> "$out/summary.txt"
    else
        echo "$name: FAILED with $? (see $name.txt)" >> "$out/summary.txt"
        failed=1
    fi
}

: > "$out/summary.txt"
step doctor trinity-mlx doctor --recheck --profile "$profile" --deep "$out/doctor.json"
step tests python -m pytest -q tests/backends tests/routing/test_variants.py --device "$device"
step tests-full-size python -m pytest -q tests/routing/test_full_size.py -m slow --device "$device"
step certify trinity-mlx certify --artifact nano --profile "$profile" --out "$out/lane-nano.json"
case "$device" in
    gpu | cpu) step certify-int8 trinity-mlx certify --artifact nano --profile "$profile" --quantize 8 --out "$out/lane-nano-int8.json" ;;
esac
step benchmark-route python benchmarks/route.py --profile "$profile" --json "$out/route.json"
step benchmark-lanes python benchmarks/lanes.py --profiles "$profile" --json "$out/lanes.json"
step benchmark-export python benchmarks/export.py --json "$out/export.json"
cat "$out/summary.txt"
exit $failed
