"""What the tests of the evaluation share: small suites, snapshots, odd plug-ins, and JSON with a fault in it."""

from __future__ import annotations

import copy
import json
import shutil
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result
from hypothesis import strategies as st

from trinity_mlx import Router
from trinity_mlx.cli import main
from trinity_mlx.contracts.backend import ENTRY_POINT_GROUP
from trinity_mlx.contracts.errors import TrinityError
from trinity_mlx.contracts.routing import ArtifactIdentity, RouteDecision, RouteLogits, Timings
from trinity_mlx.evaluation.lane import Lane
from trinity_mlx.evaluation.results import Evaluation, Floors
from trinity_mlx.evaluation.snapshot import Snapshot, make_snapshot, snapshot_case
from trinity_mlx.evaluation.suite import Suite, find_suite
from trinity_mlx.files.shipped import data_path
from trinity_mlx.routing.recipe import Recipe
from trinity_mlx.rules.choice import choose

from . import odd_backends

T = TypeVar("T")

NO_FLOORS = Floors(None, None, "none known", "none known")
LONG = {"long_prose", "near_limit_log"}
"""The cases of nano's suite that take seconds on MLX's CPU device."""
ODD = [kind.__name__ for kind in odd_backends.Odd.__subclasses__()]
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(-20, 20, width=32)
ROLE_LOGITS = st.tuples(FLOAT32, FLOAT32, FLOAT32)
AGENT_LOGITS = st.lists(FLOAT32, min_size=1, max_size=7).map(tuple)


def few(count: int = 3) -> Suite:
    """The first cases of nano's suite."""
    suite = find_suite("nano-64")
    return replace(suite, cases=suite.cases[:count])


def suite_document(count: int = 3) -> dict[str, Any]:
    """The first cases of nano's suite as they are written."""
    document: dict[str, Any] = json.loads(data_path("fixtures", "suites", "nano-64.json").read_text(encoding="utf-8"))
    return document | {"cases": document["cases"][:count]}


def write_json(path: Path, value: Any) -> Path:
    """``value`` as a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def invoke(*arguments: object) -> Result:
    """The command line in this process."""
    return CliRunner().invoke(main, [str(each) for each in arguments])


def attempt(call: Callable[[], T]) -> T | TrinityError:
    """What ``call`` gives, or how it is refused; any other exception goes on."""
    try:
        return call()
    except TrinityError as error:
        return error


def is_one_line(text: str) -> bool:
    """Whether no character of ``text`` controls a terminal, ends a line or is half a character."""
    return not {unicodedata.category(letter) for letter in text} & {"Cc", "Cs", "Zl", "Zp"}


def assert_fails(result: Result, code: int, *fragments: str) -> None:
    """One line on the error stream, perhaps one with advice after it, no traceback, nothing on standard output."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    error, *advice = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert [line[:5] for line in advice] in ([], ["try: "])
    for fragment in fragments:
        assert fragment in result.stderr


def nano_source(profile: str = "mlx", config_dir: Path | None = None) -> Recipe:
    """The embedded router, to be loaded here and in fresh processes."""
    return Recipe("nano", profile=profile, config_dir=config_dir)


def snapshot_of(router: Router, suite: Suite) -> Snapshot:
    """What ``router`` gives for ``suite``, as a snapshot of ours."""
    cases = [snapshot_case(case.id, router.route(case.transcript)) for case in suite.cases]
    return make_snapshot("before", True, cases)


def decision_of(
    agent: Sequence[float], role: Sequence[float], *, tokens: int = 9, transcript: str = "ab" * 32
) -> RouteDecision:
    """The decision that these logits give."""
    logits = RouteLogits(tuple(agent), tuple(role))
    return RouteDecision(
        choice=choose(logits),
        label=f"slot {len(agent)}",
        logits=logits,
        token_count=tokens,
        reused_tokens=0,
        transcript_hash=transcript,
        artifact=ArtifactIdentity("nano", "a" * 64, "b" * 64),
        profile="mlx",
        timings=Timings(1.0, 2.5),
    )


def reasons(evaluation: Evaluation) -> dict[str, list[str]]:
    """The reasons of every case that failed."""
    return {result.case.id: list(result.reasons) for result in evaluation.failed}


def lane_document(**changes: Any) -> dict[str, Any]:
    """A measured lane with two cases, as it is written; ``changes`` replace its keys."""
    cases = [
        snapshot_case("one", decision_of((1.5, 0.25), (0.5, 2.5, -1.0))),
        snapshot_case("two", decision_of((-1.5, 3.25), (4.5, 2.5, -1.0), transcript="cd" * 32)),
    ]
    lane = {
        "schema_version": 1,
        "profile": "mlx",
        "artifact": {"name": "nano", "adapter_ref": "a" * 64, "base_ref": "b" * 64, "head_ref": "c" * 64},
        "variant": "",
        "status": "measured",
        "note": "",
        "suite": {"name": "pair", "sha256": "c" * 64},
        "floors": {"agent": 1.0, "role": 1.6},
        "worst": {"agent": {"value": 1.25, "case": "one"}, "role": {"value": 2.0, "case": "one"}},
        "provenance": {"date": "2026-01-02", "runs": 3, "machine": {"cores": "2"}},
        "hashes": "trinity-mlx-1",
        "cases": [case.model_dump(mode="json") for case in cases],
    }
    return lane | changes


def lane_of(**changes: Any) -> Lane:
    """The lane of ``lane_document``."""
    return Lane.model_validate(lane_document(**changes))


def install_odd_backends(folder: Path, config_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the plug-ins of ``odd_backends`` an installed package, with a profile for each in ``config_dir``."""
    site = folder / "site"
    information = site / "odd_backends-1.0.dist-info"
    information.mkdir(parents=True)
    shutil.copy(odd_backends.__file__, site / "odd_backends.py")
    lines = [f"{name.lower()} = odd_backends:{name}" for name in ODD]
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-backends\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("\n".join([f"[{ENTRY_POINT_GROUP}]", *lines, ""]))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "odd_backends", raising=False)
    (config_dir / "profiles").mkdir(parents=True)
    for name in map(str.lower, ODD):
        profile = f'summary = "odd"\nbackend = "{name}"\ndevice = "cpu"\ndtype = "float32"\n'
        (config_dir / "profiles" / f"{name}.toml").write_text(profile)


ODD_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -1, 0, 3, 2**63]),
    st.floats(),
    st.text(st.characters(), max_size=5),
    st.sampled_from(["", "user", "measured", "\ud800", "\x1b[2J\n", "../../up", "a\x00b"]),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.sampled_from(["id", "x\ny", "\udfff", "cases"]), st.none(), max_size=2),
)


@st.composite
def faulty_json(draw: st.DrawFn, document: dict[str, Any]) -> bytes:
    """``document`` as JSON with up to three values replaced, removed, doubled or added, or with its bytes damaged."""
    value = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, 3))):
        _damage(draw, value)
    written = json.dumps(value).encode("ascii")
    if draw(st.integers(0, 4)) == 0:
        start = draw(st.integers(0, len(written)))
        written = written[:start] + draw(st.binary(max_size=4)) + written[start + draw(st.integers(0, 9)) :]
    return written


def _damage(draw: st.DrawFn, value: Any) -> None:
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
            place = place[key]
            continue
        match draw(st.sampled_from(["replace", "remove", "double", "add"])):
            case "replace":
                place[key] = draw(ODD_VALUES)
            case "remove":
                del place[key]
            case "double" if isinstance(place, list):
                place.append(copy.deepcopy(place[key]))
            case _ if isinstance(place, dict):
                place[draw(st.text(max_size=4))] = draw(ODD_VALUES)
        return
