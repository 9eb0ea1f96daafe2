"""``trinity-mlx eval``: a suite against a lane's gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from .. import settings
from ..artifact_choice import user_library
from ..lane_options import LaneOptions, lane_options
from ..options import PLACE, TEXT, FiniteRange, json_option
from ..output import note, print_json
from ..progress import counter

if TYPE_CHECKING:
    from pathlib import Path

    from ...evaluation.results import Evaluation
    from ...evaluation.suite import Case


@click.command("eval")
@lane_options
@click.option("--case", "cases", type=TEXT, multiple=True, metavar="ID", help="Only this case; may be repeated.")
@click.option("--list-cases", is_flag=True, help="List the suite's cases and stop.")
@click.option(
    "--determinism-runs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many times everything is routed.",
)
@click.option("--min-agent-margin", type=FiniteRange(0), help="Use this floor instead of the lane's.")
@click.option("--min-role-margin", type=FiniteRange(0), help="Use this floor instead of the lane's.")
@click.option("--snapshot", type=PLACE, help="Compare with this file instead of the lane's own.")
@click.option("--snapshot-out", type=PLACE, help="Write what was seen as a snapshot.")
@click.option(
    "--window",
    type=TEXT,
    metavar="HEAD,TAIL[,STEP]",
    help="Instead of gates: every case whole and through this reading window, side by side.",
)
@click.option("--no-assert", is_flag=True, help="Report failures and exit with 0.")
@click.option("--show-logits", is_flag=True, help="Add every case's logits.")
@json_option
@click.option("--report", type=PLACE, metavar="FILE.html", help="Write a page for a browser.")
@click.option("--junit", type=PLACE, metavar="FILE.xml", help="Write a JUnit file.")
@click.pass_context
def eval_(ctx: click.Context, /, **options: Any) -> None:
    """Check a router's decisions and margins against what is expected of them.

    With --window, the cases are read whole and in part, and one that is decided differently fails.

    A case fails on another decision than the suite expects, a margin under the floor, drift from the snapshot in slot,
    role, token count or transcript, and logits that differ between runs. Exits with 1 when a case fails.

    \b
    Examples:
      trinity-mlx eval --determinism-runs 3
      trinity-mlx eval --artifact sakana --suite seed-12 --snapshot logits.json
      trinity-mlx eval --quantize 8 --report int8.html
      trinity-mlx eval --suite long_talks.json --window 512,1536
    """
    lane, asked = LaneOptions.take_from(options), EvalOptions(**options)
    if asked.list_cases:
        _list_cases(lane, asked.as_json)
        return
    if asked.window:
        _compare_window(ctx, lane, asked)
        return
    evaluation = _evaluate(lane, asked)
    if asked.as_json:
        print_json(evaluation.to_dict(asked.show_logits))
    else:
        from ..views.eval_tables import print_evaluation

        print_evaluation(evaluation, asked.show_logits)
    _write_files(evaluation, asked)
    if evaluation.gate_failed:
        ctx.exit(1)


@dataclass(frozen=True)
class EvalOptions:
    """What the user said beside the lane's own options."""

    cases: tuple[str, ...]
    list_cases: bool
    determinism_runs: int
    min_agent_margin: float | None
    min_role_margin: float | None
    snapshot: Path | None
    snapshot_out: Path | None
    window: str | None
    no_assert: bool
    show_logits: bool
    as_json: bool
    report: Path | None
    junit: Path | None


def _evaluate(options: LaneOptions, asked: EvalOptions) -> Evaluation:
    from ...evaluation.gates import evaluate
    from ...evaluation.snapshot import read_snapshot
    from ...evaluation.standards import gates_for

    suite = options.given_suite()
    given = asked.snapshot or options.snapshot_of_suite()
    snapshot = read_snapshot(given) if given else None
    with options.recipe().load(remember=False) as router:
        suite, gates = gates_for(
            router,
            suite,
            settings.config_dir(),
            snapshot=snapshot,
            agent=asked.min_agent_margin,
            role=asked.min_role_margin,
            determinism_runs=asked.determinism_runs,
            asserting=not asked.no_assert,
        )
        suite = suite.only(asked.cases)
        with counter(f"routing {suite.name}", len(suite.cases) * gates.determinism_runs) as tick:
            return evaluate(router, suite, gates, lambda: tick(1), settings.config_dir())


def _compare_window(ctx: click.Context, options: LaneOptions, asked: EvalOptions) -> None:
    from ...contracts.routing import Window
    from ...evaluation.standards import default_suite
    from ...evaluation.windows import compare_window

    window, suite = Window.parse(asked.window or ""), options.given_suite()
    with options.recipe().load(remember=False) as router:
        suite = (suite or default_suite(router.identity.artifact.name)).only(asked.cases)
        with counter(f"routing {suite.name} twice", len(suite.cases)) as tick:
            comparison = compare_window(router, suite, window, lambda: tick(1))
    if asked.as_json:
        print_json(comparison.to_dict())
    else:
        from ..views.window_table import print_windows

        print_windows(comparison)
    if comparison.changed and not asked.no_assert:
        ctx.exit(1)


def _write_files(evaluation: Evaluation, asked: EvalOptions) -> None:
    if path := asked.snapshot_out:
        from ...evaluation.snapshot import snapshot_case, write_snapshot

        results = evaluation.results
        write_snapshot(path, [snapshot_case(each.case.id, each.decision) for each in results if each.decision])
        note(f"snapshot written to {path}")
    if path := asked.report:
        from ...evaluation.report import write_report

        write_report(path, evaluation)
        note(f"report written to {path}")
    if path := asked.junit:
        from ...evaluation.junit import write_junit

        write_junit(path, evaluation)
        note(f"JUnit file written to {path}")


def _list_cases(options: LaneOptions, as_json: bool) -> None:
    from ...evaluation.standards import default_suite

    suite = options.given_suite() or default_suite(user_library().name_of(options.artifact))
    if as_json:
        print_json([_case_record(case) for case in suite.cases])
        return
    from ..views.eval_tables import print_cases

    print_cases(suite)


def _case_record(case: Case) -> dict[str, Any]:
    from ...contracts.plain import to_plain

    return {
        "id": case.id,
        "messages": [to_plain(message) for message in case.transcript.messages],
        "expected": {"slot": case.expected.slot, "role": int(case.expected.role)},
        "tags": list(case.tags),
        "notes": case.notes,
    }
