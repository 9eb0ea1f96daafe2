"""What the gates cost, and what the variants of a lane change.

Times whole processes of ``trinity-mlx eval`` on nano's suite, two determinism runs each, from start to exit. Then
routes generated conversations, held out from nano's training, in every variant of a profile, and compares each with the
usual one: the share of decisions kept, how far all logits are apart relative to their length, and the largest
difference of one.

    python benchmarks/lanes.py [--json FILE] [--profiles cpu,mlx] [--conversations N] [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from trinity_mlx.contracts.errors import ProfileUnavailable
from trinity_mlx.contracts.routing import RouteDecision
from trinity_mlx.evaluation.provenance import describe_machine, describe_software
from trinity_mlx.routing.loading import load_router
from trinity_mlx.rules.distance import Distance

sys.path.insert(0, str(Path(__file__).parent.parent))
from tools.nano.corpus import examples

SEED = 7
VARIANTS: tuple[dict[str, Any], ...] = (
    {"kernels": "composed"},
    {"quantize": 8},
    {"quantize": 4},
)


def main() -> None:
    """Measure, print, and write the JSON where asked to."""
    parser = argparse.ArgumentParser(description="Time the gates and compare the variants of a lane.")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--profiles", default="cpu,mlx")
    parser.add_argument("--conversations", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    profiles = asked.profiles.split(",")
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine() | {"load_average": os.getloadavg()},
        "software": describe_software(),
        "eval_seconds": {name: [time_eval(name) for _ in range(asked.repeats)] for name in profiles},
        "conversations": asked.conversations,
        "variants": [row for name in profiles for row in compare_variants(name, asked.conversations)],
    }
    print_report(report)
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def time_eval(profile: str) -> float:
    """Seconds of one whole process; a failing gate ends the benchmark."""
    command = [str(Path(sys.executable).with_name("trinity-mlx")), "eval", "--artifact", "nano", "--profile", profile]
    started = time.perf_counter()
    subprocess.run([*command, "--determinism-runs", "2"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def compare_variants(profile: str, conversations: int) -> Iterator[dict[str, Any]]:
    """One row for each variant that the profile has."""
    usual = route_all(profile, conversations)
    for variant in VARIANTS:
        try:
            varied = route_all(profile, conversations, **variant)
        except ProfileUnavailable:
            continue
        pairs = list(zip(usual, varied, strict=True))
        ours, theirs = ([value for each in side for value in each.logits.row] for side in (varied, usual))
        distance = Distance.between(ours, theirs)
        yield {
            "profile": profile,
            "variant": "composed kernels" if "kernels" in variant else f"int{variant['quantize']}",
            "decisions_kept": sum((a.slot, a.role) == (b.slot, b.role) for a, b in pairs),
            "distance": distance.to_dict(),
        }


def route_all(profile: str, conversations: int, **variant: Any) -> Sequence[RouteDecision]:
    """The decision for each held-out conversation, each from nothing."""
    with load_router("nano", profile=profile, cache_bytes=0, **variant) as router:
        return [router.route(example.messages) for example in examples("heldout", conversations, SEED)]


def print_report(report: dict[str, Any]) -> None:
    """Both measurements, readable."""
    console = Console()
    machine = report["machine"]
    console.print(f"{machine['processor']}, {machine['cores']} cores, {report['date']}")
    for profile, seconds in report["eval_seconds"].items():
        console.print(f"trinity-mlx eval --profile {profile} --determinism-runs 2: {median(seconds):.2f} s (median)")
    table = Table(box=None, header_style="dim")
    for heading in ("profile", "variant", "decisions kept", "distance", "largest difference"):
        table.add_column(heading, justify="left" if heading in ("profile", "variant") else "right")
    for row in report["variants"]:
        kept = f"{row['decisions_kept']} of {report['conversations']}"
        distance = row["distance"]
        relative, largest = f"{distance['relative_l2']:.2g}", f"{distance['largest']:.2g}"
        table.add_row(row["profile"], row["variant"], kept, relative, largest)
    console.print(table)


if __name__ == "__main__":
    main()
