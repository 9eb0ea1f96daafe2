"""Evaluations for the tests of the report: real routes of nano, judged by the real gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trinity_mlx import Role, RouteDecision, Router, Transcript
from trinity_mlx.evaluation.gates import Gates, evaluate, route_suite
from trinity_mlx.evaluation.results import Evaluation, Floors
from trinity_mlx.evaluation.snapshot import Snapshot, make_snapshot, snapshot_case
from trinity_mlx.evaluation.suite import Case, Route, Suite, find_suite

FLOORS = Floors(0.45, 0.46, "lane mlx/nano, measured", "lane mlx/nano, measured")
NO_FLOORS = Floors(None, None, "none known", "none known")
LONG_WORD = "Rindfleischetikettierung" * 12
HOSTILE = {
    "<script>window.hacked = true</script>": "<script>window.hacked = true</script><img src=x onerror='hacked = true'>",
    "\"quotes' & &amp; `ticks`": "</pre></details></article><h1 style='position: fixed'>\"broken\"</h1>",
    LONG_WORD: LONG_WORD * 5,
    "مرحبا بالعالم": "ما هي عاصمة المغرب؟ \u202e12 + 30",
    "emoji 👩‍👩‍👧‍👦🏳️‍🌈": "🚀" * 90,
    "javascript:void(0)": "{{ 7 * 7 }} {% raw %} {{ evaluation }} \x00\x1b[31m\x7f\r\n end",
    "spaces   and\ttabs": " \n\t ",
    "#case-1": "word " * 180,
    "100k": "All work and no play. " * 4600,
}


def nano_suite(count: int | None = None) -> Suite:
    """The suite of the embedded router, or its first cases."""
    suite = find_suite("nano-64")
    return replace(suite, cases=suite.cases[:count])


def snapshot_of(router: Router, suite: Suite) -> Snapshot:
    """What ``router`` gives for ``suite``, as a snapshot of ours."""
    outcomes = zip(suite.cases, route_suite(router, suite), strict=True)
    cases = [snapshot_case(case.id, found) for case, found in outcomes if isinstance(found, RouteDecision)]
    return make_snapshot("lane mlx/nano", True, cases)


def passing(router: Router) -> Evaluation:
    """Every case of the suite passes every gate, a snapshot among them."""
    suite = nano_suite()
    return evaluate(router, suite, Gates(FLOORS, snapshot_of(router, suite), determinism_runs=2))


def failing(router: Router, other: Router, asserting: bool = True) -> Evaluation:
    """Some cases of each kind of failure, against the snapshot that ``other`` left."""
    suite = nano_suite()
    snapshot = snapshot_of(other, replace(suite, cases=suite.cases[4:]))
    wrong = [replace(case, expected=Route(6 - case.expected.slot, Role.THINKER)) for case in suite.cases[::16]]
    unroutable = Case(
        "too_long", Transcript.of("once more " * 3000), Route(3, Role.WORKER), notes="more than nano reads"
    )
    spoilt = {case.id: case for case in wrong}
    cases = (*(spoilt.get(case.id, case) for case in suite.cases), unroutable)
    floors = replace(FLOORS, agent=0.7, role=0.9)
    notes = ("the lane was measured on another machine",)
    return evaluate(router, replace(suite, cases=cases), Gates(floors, snapshot, asserting=asserting, notes=notes))


def bare(router: Router) -> Evaluation:
    """One case, without a snapshot and without floors."""
    return evaluate(router, nano_suite(1), Gates(NO_FLOORS))


def hostile(router: Router) -> Evaluation:
    """Ids, prompts, tags, notes and labels that try to break the page; the longest prompt cannot be routed."""
    cases = [
        Case(name, Transcript.of(prompt), Route(0, Role.WORKER), None, (name,), prompt[:300])
        for name, prompt in HOSTILE.items()
    ]
    suite = Suite("<b>suite</b>" + LONG_WORD, "0" * 64, tuple(cases))
    found = evaluate(router, suite, Gates(FLOORS, notes=(next(iter(HOSTILE)), LONG_WORD)))
    labels = ("<script>window.hacked = true</script>", LONG_WORD, "عربي", "👩‍💻", "a b", "&amp;", '"')
    return replace(found, labels=labels, environment=dict(found.environment) | {"artifact": "<i>x</i>" + LONG_WORD})


def many(router: Router, count: int = 200) -> Evaluation:
    """Many short cases."""
    suite = nano_suite(44)
    cases: Sequence[Case] = [
        replace(suite.cases[number % 44], id=f"{suite.cases[number % 44].id}_{number}") for number in range(count)
    ]
    return evaluate(router, replace(suite, cases=tuple(cases)), Gates(FLOORS))
