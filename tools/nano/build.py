"""Train `nano` from nothing: python tools/nano/build.py --out DIR [--bundle fixtures/artifacts/nano]

Writes DIR/base (config, weights, tokenizer), DIR/vector.safetensors (offsets and head) and DIR/report.json; with
--bundle also the bundle that the package carries, its card included.
"""

import argparse
import json
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script: make the package importable

from tools.nano.adapter import ADAPTED, Router, save_vector
from tools.nano.base import CONFIG, save_base
from tools.nano.bundle import write_bundle
from tools.nano.corpus import ROLES, SLOTS, examples
from tools.nano.evaluate import full_report, logits_of, misrouted
from tools.nano.phrases import families
from tools.nano.progress import Progress
from tools.nano.strangers import strangers
from tools.nano.tokenizer import save_tokenizer
from tools.nano.train import (
    BATCH,
    SEEDS,
    THREADS,
    Plan,
    ablations,
    make_base,
    make_reproducible,
    make_router,
    make_tokenizer,
)

MAX_BYTES = 4_000_000


def build(out_dir: Path, plan: Plan | None = None) -> dict[str, Any]:
    """Train, measure and write everything under `out_dir`; returns the report."""
    plan, progress = plan or Plan(), Progress()
    make_reproducible()
    folder = out_dir / "base"
    folder.mkdir(parents=True, exist_ok=True)

    progress.stage("tokenizer")
    tokenizer = make_tokenizer(plan)
    save_tokenizer(tokenizer, folder)
    progress.stage("base")
    base = make_base(plan, tokenizer, progress)
    save_base(base, folder)
    progress.stage("offsets and head")
    router = make_router(base, plan, tokenizer, progress)
    save_vector(router, out_dir / "vector.safetensors")

    progress.stage("evaluation")
    heldout = examples("heldout", plan.heldout_examples, SEEDS["heldout_text"])
    report = {
        "corpus": describe_corpus(),
        "training": describe_training(plan),
        "heldout": full_report(*logits_of(router, heldout, tokenizer)),
        "strangers": full_report(*logits_of(router, strangers(), tokenizer)),
        "strangers_misrouted": misrouted(router, strangers(), tokenizer),
        "ablations": ablations(base, plan, tokenizer, heldout, progress),
        "parameters": sum(weight.numel() for weight in base.parameters()),
        "offsets": {
            "count": sum(offsets.numel() for offsets in router.offsets),
            "largest": max(offsets.abs().max().item() for offsets in router.offsets),
        },
        "bytes": sizes(out_dir, router),
        "versions": versions(),
        "seconds": round(progress.seconds(), 1),
    }
    (out_dir / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    progress.stage("done")
    return report


def describe_corpus() -> dict[str, Any]:
    """Families and phrasings, in all and per split."""
    phrasings = Counter[str]()
    for family in families():
        phrasings[family.split] += family.phrasings()
    count = Counter(family.split for family in families())
    return {"slots": SLOTS, "roles": ROLES, "families": dict(count), "phrasings": dict(phrasings)}


def describe_training(plan: Plan) -> dict[str, Any]:
    """Steps, examples, seeds, and the shape of the base."""
    shape = {key: value for key, value in CONFIG.items() if isinstance(value, int | float)}
    seen = {"lexicon": plan.lexicon_steps * BATCH, "base": plan.base_steps * BATCH, "router": plan.router_steps * BATCH}
    return {"plan": vars(plan), "examples": seen, "seeds": SEEDS, "threads": THREADS, "base": shape}


def sizes(out_dir: Path, router: Router) -> dict[str, int]:
    """Bytes of every file, and of the bundle they make: the base, adapter factors [r, r] and head in float32."""
    found = {str(path.relative_to(out_dir)): path.stat().st_size for path in sorted(out_dir.rglob("*.*"))}
    base = sum(size for name, size in found.items() if name.startswith("base"))
    factors = sum(4 * len(router.spectra[name].values) ** 2 for name in ADAPTED[:-1])
    total = base + factors + 4 * router.head.numel()
    if total > MAX_BYTES:
        raise ValueError(f"nano would take {total:,} bytes, more than {MAX_BYTES:,}: make the base smaller")
    return {**found, "adapter_factors": factors, "bundle": total}


def versions() -> dict[str, str]:
    """What the run was made with."""
    modules = {module.__name__: module.__version__ for module in (torch, transformers, tokenizers)}
    return {"python": platform.python_version(), **modules}


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description="Train the embedded demonstration router.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="share of the full run (smoke run: 0.02)")
    parser.add_argument("--bundle", type=Path, help="folder of the bundle; what lies there is replaced")
    arguments = parser.parse_args()
    report = build(arguments.out, Plan().scaled(arguments.steps_scale))
    if arguments.bundle:
        write_bundle(arguments.out, arguments.bundle, report)
    summary = {key: report[key] for key in ("corpus", "bytes", "ablations", "seconds")}
    print(json.dumps({**summary, "heldout": report["heldout"]["accuracy"]}, indent=2))


if __name__ == "__main__":
    main()
