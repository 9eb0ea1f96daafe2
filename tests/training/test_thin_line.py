"""From a table to a sealed bundle, whole, and what a router with it decides."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.builders import make_base, skip_without_nano
from tests.training_tables import AGENTS, answers_of, records, write_jsonl
from trinity_mlx.artifacts.manifest import read_manifest
from trinity_mlx.artifacts.vector import read_vector, split_vector
from trinity_mlx.cli.main import main
from trinity_mlx.contracts.errors import (
    ContextLengthError,
    FolderUnavailable,
    OutputExists,
    ResumeRefused,
    TableInvalid,
    TrinityError,
    UsageError,
)
from trinity_mlx.contracts.routing import Guard, Role, Window
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.loading import load_router
from trinity_mlx.training.answers import Answers
from trinity_mlx.training.headroom import BEST_SINGLE, ORACLE, headroom
from trinity_mlx.training.objective import Objective
from trinity_mlx.training.pipeline import RECORD, Trained, TrainingRequest, Watch, train
from trinity_mlx.training.reading import Engine, Reading
from trinity_mlx.training.report import render_headroom
from trinity_mlx.training.roles import RoleSource
from trinity_mlx.training.sealing import VECTOR_FILE, BaseIdentity
from trinity_mlx.training.settings import Settings
from trinity_mlx.training.table import read_table
from trinity_mlx.training.vector_layout import Layout

DOCUMENT = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    return Reading(make_base(tmp_path_factory.mktemp("base")))


def request(answers: Answers, reading: Reading, out: Path, **changes: object) -> TrainingRequest:
    asked: dict[str, object] = {
        "settings": Settings("knn", offsets=False),
        "engine": Engine(load_backend("torch")),
        "identity": BaseIdentity("test/tiny"),
    }
    return TrainingRequest(answers=answers, reading=reading, out=out, **{**asked, **changes})  # type: ignore[arg-type]


def routed(trained: Trained, reading: Reading, answers: Answers, rows: Sequence[int], profile: str) -> np.ndarray:
    with load_router(trained.bundle.folder, reading.base.folder, profile, "float32") as router:
        decisions = router.route_many([answers.rows[row].transcript for row in rows])
    return np.array([decision.slot for decision in decisions])


@pytest.mark.parametrize("profile", ["cpu", pytest.param("mlx", marks=pytest.mark.slow)])
@pytest.mark.parametrize("algorithm", ["staged", "paper"])
def test_a_router_decides_as_its_training_measured(
    algorithm: str, profile: str, reading: Reading, tmp_path: Path
) -> None:
    answers = answers_of(tmp_path / "t.jsonl", records(120))
    settings = Settings(algorithm, iterations=3, population=6, rows=40 if algorithm == "paper" else None)
    engine = Engine(load_backend("torch" if profile == "cpu" else "mlx"))
    trained = train(request(answers, reading, tmp_path / "out", settings=settings, engine=engine))
    test = answers.where("test")
    choices = routed(trained, reading, answers, test.tolist(), profile)
    assert np.array_equal(choices, trained.summary.choices)
    scores = answers.filled()[test, choices]
    assert scores.mean() == pytest.approx(trained.summary.score.mean)


def test_offsets_that_were_trained_are_in_the_vector_and_the_adapter(reading: Reading, tmp_path: Path) -> None:
    answers = answers_of(tmp_path / "t.jsonl", records(120))
    settings = Settings("paper", iterations=4, population=6, rows=40, step=0.2)
    trained = train(request(answers, reading, tmp_path / "out", settings=settings))
    if not trained.progress.kept:
        pytest.skip("nothing was kept")
    vector = read_vector(trained.bundle.folder / VECTOR_FILE).values
    layout = Layout.of(reading.base)
    parts = split_vector(vector, dict(layout.shapes), reading.base.config.hidden_size)
    assert parts.head.shape == (len(AGENTS) + len(Role), reading.base.config.hidden_size)
    changed = {name for name, values in parts.offsets.items() if values.any()}
    assert changed == {entry.source for entry in trained.bundle.adapter.entries} == set(layout.spectra)


def test_a_bundle_tells_how_it_was_made_and_what_it_came_to(reading: Reading, tmp_path: Path) -> None:
    answers = answers_of(tmp_path / "t.jsonl", records(120))
    trained = train(request(answers, reading, tmp_path / "out"))
    folder = trained.bundle.folder
    manifest, record = (json.loads((folder / name).read_text()) for name in ("manifest.json", RECORD))
    assert manifest["made"]["roles"] == "neutral"
    assert manifest["lineage"]["table"] == answers.sha256
    assert record["score"]["mean"] == pytest.approx(trained.summary.score.mean)
    guard = trained.summary.guard
    assert guard
    assert trained.bundle.guard == Guard(guard.slot, distance=guard.limit)
    assert record["guard"]["distance"] == manifest["guard"]["distance"]
    assert trained.summary.caution() in (folder / "README.md").read_text()
    assert trained.summary.verdict() in (folder / "README.md").read_text()
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert not folder.with_name("out.training").exists()


def test_roles_come_from_recorded_answers_where_there_are_any(reading: Reading, tmp_path: Path) -> None:
    rows = [{**row, "responses": {"alpha": "The answer is 42."}} for row in records(120)]
    answers = answers_of(tmp_path / "t.jsonl", rows)
    trained = train(request(answers, reading, tmp_path / "out"))
    task = [{"role": "user", "content": "Add 3 and 4."}]
    answer = {"role": "assistant", "content": "The answer is 42."}
    with load_router(trained.bundle.folder, reading.base.folder, "cpu") as router:
        assert router.route(task).role is Role.WORKER
        assert router.route([*task, answer]).role is Role.VERIFIER


def test_roles_from_the_table_and_kept_roles(reading: Reading, tmp_path: Path) -> None:
    rows = records(120)
    for row in rows:
        row["role"] = "Thinker" if row["category"] == "verse" else "Worker"
    answers = answers_of(tmp_path / "t.jsonl", rows)
    first = train(request(answers, reading, tmp_path / "first"))
    kept = train(request(answers, reading, tmp_path / "kept", roles=RoleSource.KEEP, keep_roles_of=first.bundle))
    transcripts = [row.transcript for row in answers.rows[:40]]
    roles = []
    for trained in (first, kept):
        with load_router(trained.bundle.folder, reading.base.folder, "cpu") as router:
            roles.append([decision.role for decision in router.route_many(transcripts)])
    wanted = [row.role for row in answers.rows[:40]]
    assert np.mean([one is other for one, other in zip(roles[0], wanted, strict=True)]) > 0.8
    assert roles[0] == roles[1]
    with pytest.raises(UsageError, match="kept from a router on the same base"):
        train(request(answers, reading, tmp_path / "none", roles=RoleSource.KEEP))


def test_what_lies_there_is_not_overwritten_unasked(reading: Reading, tmp_path: Path) -> None:
    answers = answers_of(tmp_path / "t.jsonl", records(120))
    out = tmp_path / "out"
    settings = Settings("ridge", offsets=False)
    asked = request(answers, reading, out, settings=settings)

    def stop(generation: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(asked, Watch(generation=stop))
    with pytest.raises(OutputExists, match="resume it"):
        train(asked)
    other = request(answers, reading, out, settings=Settings("ridge", offsets=False, seed=1), resume=True)
    with pytest.raises(ResumeRefused):
        train(other)
    train(request(answers, reading, out, settings=settings, resume=True))
    with pytest.raises(OutputExists, match="exists already"):
        train(asked)
    train(request(answers, reading, out, settings=settings, force=True))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="no bundle"):
        train(request(answers, reading, tmp_path / "notes", settings=settings, force=True))
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep"


class Unread(Reading):
    """A base of which nothing is read: what is refused is refused before any work."""

    def segments(self, *_: object) -> NoReturn:
        raise AssertionError("transcripts were read before the request was checked")


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_could_not_be_replaced_is_said_before_any_work(kind: str, reading: Reading, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "mine.txt").write_text("keep")
    elif kind == "file":
        out.write_text("keep")
    else:
        out.symlink_to(tmp_path / "nowhere")
    answers = answers_of(tmp_path / "t.jsonl", records(120))
    with pytest.raises(UsageError, match="no bundle"):
        train(request(answers, Unread(reading.base), out, force=True))
    assert not (tmp_path / "out.training").exists()


def test_a_place_that_cannot_be_written_to_is_said_before_any_work(reading: Reading, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    answers = answers_of(tmp_path / "t.jsonl", records(120))
    with pytest.raises(FolderUnavailable, match="Not a directory"):
        train(request(answers, Unread(reading.base), tmp_path / "file" / "out"))
    assert (tmp_path / "file").read_text() == "keep"


def test_a_base_that_cannot_be_copied_is_said_in_one_line(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (base.folder / "notes.txt").symlink_to(tmp_path / "nowhere")
    answers = answers_of(tmp_path / "t.jsonl", records(120))
    identity = BaseIdentity("test/tiny", carried=True)
    with pytest.raises(FolderUnavailable, match=r"base cannot be copied: \S*notes.txt: No such file") as caught:
        train(request(answers, Reading(base), tmp_path / "out", identity=identity))
    assert "[" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_training_is_not_deleted(reading: Reading, tmp_path: Path) -> None:
    (tmp_path / "out.training").mkdir()
    (tmp_path / "out.training" / "mine.txt").write_text("keep")
    answers = answers_of(tmp_path / "t.jsonl", records(120))
    with pytest.raises(UsageError, match="no training"):
        train(request(answers, Unread(reading.base), tmp_path / "out", force=True))
    assert (tmp_path / "out.training" / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": Settings(objective=Objective(keep=4))}, "keeps 4 agents of 3"),
        ({"settings": Settings(objective=Objective(entropy_floor=1.2))}, "at most 1.0986"),
        ({"settings": Settings(objective=Objective(cost=1.0))}, "the objective weighs costs"),
        ({"settings": Settings(head="low-rank", rank=1000)}, "rank is 1000"),
        ({"roles": RoleSource.KEEP}, "kept from a router on the same base"),
    ],
)
def test_what_does_not_fit_is_said_before_any_work(
    changes: dict[str, object], message: str, reading: Reading, tmp_path: Path
) -> None:
    answers = answers_of(tmp_path / "t.jsonl", records(120))
    with pytest.raises(TrinityError, match=message):
        train(request(answers, Unread(reading.base), tmp_path / "out", **changes))
    assert not (tmp_path / "out.training").exists()


def test_a_text_too_long_for_the_base_needs_a_window_and_reads_as_the_router_does(
    reading: Reading, tmp_path: Path
) -> None:
    rows = records(120)
    for row in rows[::7]:
        row["prompt"] += " and on" * 900
    answers = answers_of(tmp_path / "t.jsonl", rows)
    with pytest.raises(ContextLengthError, match="reading window"):
        train(request(answers, reading, tmp_path / "out"))
    window = Window(100, 200, 64)
    windowed = Reading(reading.base, window=window)
    trained = train(request(answers, windowed, tmp_path / "out"))
    test = answers.where("test").tolist()
    assert trained.bundle.window == window
    with load_router(trained.bundle.folder, reading.base.folder, "cpu") as router:
        assert router.identity.window == window
        found = [each.slot for each in router.route_many([answers.rows[row].transcript for row in test])]
    assert np.array_equal(found, trained.summary.choices)
    with load_router(trained.bundle.folder, reading.base.folder, "cpu", window=Window(8, 8, 8)) as router:
        assert router.identity.window == Window(8, 8, 8)


@pytest.mark.parametrize("is_long", [True, False])
def test_a_window_for_what_does_not_fit_is_the_bundle_s_where_it_was_used(
    is_long: bool, reading: Reading, tmp_path: Path
) -> None:
    rows = records(90)
    if is_long:
        rows[0]["prompt"] += " and on" * 900
    answers = answers_of(tmp_path / "t.jsonl", rows)
    fitting = Reading(reading.base, window=Window(300, 300, 256), spare=True)
    trained = train(request(answers, fitting, tmp_path / "out", settings=Settings("ridge", offsets=False)))
    assert trained.bundle.window == (fitting.window if is_long else None)
    assert (read_manifest(trained.bundle.folder).window is not None) == is_long


def test_an_answer_too_long_for_the_base_makes_the_window_the_bundle_s(reading: Reading, tmp_path: Path) -> None:
    rows = [{**row, "responses": {"alpha": "so" + " and on" * 900}} for row in records(60)]
    fitting = Reading(reading.base, window=Window(300, 300, 256), spare=True)
    settings = Settings("ridge", offsets=False)
    trained = train(request(answers_of(tmp_path / "t.jsonl", rows), fitting, tmp_path / "out", settings=settings))
    assert trained.bundle.window == fitting.window


@pytest.mark.parametrize(("field", "weight"), [("costs", "cost"), ("seconds", "seconds"), ("turns", "turns")])
def test_what_counts_against_the_score_must_be_there_and_counts(
    field: str, weight: str, reading: Reading, tmp_path: Path
) -> None:
    settings = Settings("ridge", offsets=False, objective=Objective(**{weight: 1.0}))
    for name, given in (("none", {}), ("some", {field: {"alpha": 1.0, "gamma": 2.0}})):
        answers = answers_of(tmp_path / f"{name}.jsonl", [{**row, **given} for row in records(120)])
        with pytest.raises(TableInvalid, match=f"weighs {field}, and the train rows have none for (alpha|beta)"):
            train(request(answers, reading, tmp_path / name, settings=settings))
    rows = [{**row, field: {"alpha": 0.0, "beta": 9.0, "gamma": 9.0}} for row in records(120)]
    costly = answers_of(tmp_path / "c.jsonl", rows)
    cheap = train(request(costly, reading, tmp_path / "cheap", settings=settings))
    assert np.mean(cheap.summary.choices == 0) > 0.9


def test_what_is_unknown_counts_as_the_agent_s_mean_on_train(tmp_path: Path) -> None:
    rows = [
        {**row, "turns": {"alpha": 5.0, "beta": 1.0, "gamma": 2.0}, "split": ("train", "val", "test")[index % 3]}
        for index, row in enumerate(records(90))
    ]
    for row in rows[2::3]:
        row["turns"] = {"alpha": 500.0}
    answers = answers_of(tmp_path / "t.jsonl", rows)
    lost = answers.filled() - Objective(turns=0.1).utility(answers)
    assert np.allclose(lost[answers.where("test")], [50.0, 0.1, 0.2])
    assert np.allclose(lost[answers.where("train")], [0.5, 0.1, 0.2])


def test_an_agent_that_is_not_named_is_left_out(reading: Reading, tmp_path: Path) -> None:
    table = read_table(write_jsonl(tmp_path / "t.jsonl", records(120)))
    answers = Answers.of(table, ("gamma", "alpha"))
    trained = train(request(answers, reading, tmp_path / "out", settings=Settings("ridge", offsets=False)))
    assert trained.bundle.head.labels == ("gamma", "alpha")
    assert trained.bundle.head.tensor.shape[0] == 2 + len(Role)


@pytest.mark.parametrize("count", [1, 20, 64])
def test_any_number_of_slots(count: int, reading: Reading, tmp_path: Path) -> None:
    agents = [f"agent-{index}" for index in range(count)]
    draw = np.random.default_rng(0)
    rows = [{**row, "scores": dict(zip(agents, draw.random(count).tolist(), strict=True))} for row in records(90)]
    answers = Answers.of(read_table(write_jsonl(tmp_path / "t.jsonl", rows)), agents)
    trained = train(request(answers, reading, tmp_path / "out", settings=Settings("knn", offsets=False)))
    assert trained.bundle.head.labels == tuple(agents)
    assert np.array_equal(
        routed(trained, reading, answers, answers.where("test").tolist(), "cpu"), trained.summary.choices
    )


def test_headroom_is_measured_and_said(tmp_path: Path) -> None:
    easy = headroom(answers_of(tmp_path / "t.jsonl", records(600)))
    assert easy.is_worth_it
    assert "is worth it" in easy.paragraph()
    assert easy.method(BEST_SINGLE).estimate.mean < easy.best_router.estimate.mean < easy.method(ORACLE).estimate.mean
    hopeless = headroom(answers_of(tmp_path / "n.jsonl", records(300, right=0.5, wrong=0.5)))
    assert not hopeless.is_worth_it
    assert "hardly worth it" in hopeless.paragraph()
    assert "<script" not in render_headroom(easy)


def test_the_oracle_s_luck_shows_when_it_is_replayed(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = []
    for row in records(300):
        runs = {agent: draw.integers(0, 2, 3).astype(float).tolist() for agent in AGENTS}
        rows.append({**row, "runs": runs, "scores": {agent: float(np.mean(values)) for agent, values in runs.items()}})
    found = headroom(answers_of(tmp_path / "t.jsonl", rows))
    replayed = found.method("oracle, replayed on other repeats")
    assert found.method(ORACLE).estimate.mean > 0.7
    assert abs(replayed.estimate.mean - 0.5) < 0.12


def test_the_frontier_trades_score_for_cost(tmp_path: Path) -> None:
    rows = [{**row, "costs": {"alpha": 1.0, "beta": 5.0, "gamma": 9.0}} for row in records(400)]
    frontier = headroom(answers_of(tmp_path / "t.jsonl", rows)).frontier
    assert frontier[0].weight == 0.0
    assert frontier[-1].cost < frontier[0].cost
    assert frontier[-1].score < frontier[0].score


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def test_a_window_without_a_base_to_read_through_it_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "t.jsonl", records(30))
    refused = run("headroom", str(tmp_path / "t.jsonl"), "--window", "8,8")
    assert refused.exit_code == 2
    assert "no base is given: add --base, or leave out --window" in refused.output


def test_the_tutorial_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_nano()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRINITY_MLX_CACHE", str(tmp_path / "cache"))
    write_jsonl(tmp_path / "answers.jsonl", records(240))
    block = re.search(r"```console\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    assert block
    commands = [shlex.split(line.removeprefix("$ ")) for line in block[1].splitlines() if line.startswith("$ ")]
    assert len(commands) == 5
    for command in commands:
        assert command[0] == "trinity-mlx"
        result = run(*command[1:])
        assert result.exit_code == 0, (command, result.output)


def test_ablations_and_kinds_of_head_are_options_and_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_nano()
    monkeypatch.setenv("TRINITY_MLX_CACHE", str(tmp_path / "cache"))
    path, out = write_jsonl(tmp_path / "t.jsonl", records(90)), tmp_path / "out"
    options = ["--algorithm", "ridge", "--head", "low-rank", "--rank", "6", "--read-position", "last", "--no-offsets"]
    result = run("train", str(path), "--out", str(out), *options, "--tensorboard", str(tmp_path / "board"))
    assert result.exit_code == 0, result.output
    described = json.loads(run("inspect", str(out), "--json").stdout)
    assert (described["head"]["kind"], described["head"]["reads"]) == ("low-rank", "last")
    assert described["head"]["elu"]["alpha"] == 0.1
    assert described["made"]["head"] == "low-rank, rank 6"
    assert (described["made"]["reads"], described["made"]["offsets"]) == ("the last token", "none")
    assert described["made"]["embedding offsets"] == "off"
    assert "at the last token" in run("inspect", str(out)).stdout
    assert "hold linear heads of the second-to-last token" in described["in_published_layout"][0]["how"]
    decided = json.loads(run("route", "--artifact", str(out), "--json", "Add 3 and 4.").stdout)
    assert decided["agent"]["label"] in AGENTS
    _check_events(tmp_path / "board", out / "metrics.jsonl")


def _check_events(board: Path, metrics: Path) -> None:
    """TensorBoard's own reader finds every generation's scores."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(board))
    events.Reload()
    generations = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert set(events.Tags()["scalars"]) == {"ridge/train", "ridge/val", "ridge/best"}
    for name in ("train", "val", "best"):
        found = [(event.step, event.value) for event in events.Scalars(f"ridge/{name}")]
        assert found == [(each["number"], pytest.approx(each[name])) for each in generations]


def test_wrong_options_give_a_line_and_no_traceback(tmp_path: Path) -> None:
    skip_without_nano()
    path = write_jsonl(tmp_path / "t.jsonl", records(60))
    for arguments, message in (
        (["train", str(path), "--out", str(tmp_path / "o"), "--algorithm", "magic"], "there are staged"),
        (["train", str(path), "--out", str(tmp_path / "o"), "--agents", "nobody"], "no agent 'nobody'"),
        (["train", str(path), "--out", str(tmp_path / "o"), "--roles", "keep"], "go together"),
        (["train", str(path), "--out", str(tmp_path / "o"), "--window", "a"], "'a' is not a window"),
        (["headroom", str(tmp_path / "none.jsonl")], "cannot be read"),
        (["table", "split", str(path), "--out", str(path)], "exists already"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert message in result.output
