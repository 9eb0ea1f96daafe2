"""What can be said of a Ray cluster without one; with one, ``test_kills`` does."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from trinity_mlx.batches.chunks import chunks
from trinity_mlx.batches.engines.cluster import FileServer, OnRay, worker_needs
from trinity_mlx.batches.records import Question
from trinity_mlx.contracts.errors import EnvironmentUnavailable
from trinity_mlx.routing.recipe import Recipe


@pytest.mark.parametrize(
    ("profile", "cluster", "needs"),
    [
        ("auto", {"CPU": 8.0}, ("num_cpus", 8)),
        ("auto", {"CPU": 8.0, "GPU": 2.0}, ("num_gpus", 2)),
        ("cuda", {"CPU": 8.0, "GPU": 2.0}, ("num_gpus", 2)),
        ("cpu", {"CPU": 8.0, "GPU": 2.0}, ("num_cpus", 8)),
        ("cpu", {"CPU": 0.5}, ("num_cpus", 1)),
    ],
)
def test_a_worker_takes_a_gpu_where_there_are_some_and_its_profile_uses_them(
    profile: str, cluster: dict[str, float], needs: tuple[str, int]
) -> None:
    assert worker_needs(Recipe("nano", profile=profile), cluster) == needs


def test_the_places_of_chunks_are_their_bytes(tmp_path: Path) -> None:
    raw = b"one\n\ntwo\nthree\nfour"
    path = tmp_path / "in.jsonl"
    path.write_bytes(raw)
    server = FileServer(str(path))
    for chunk in chunks(io.BytesIO(raw), "x", whole=True, most=2):
        [again] = chunks(io.BytesIO(server.read(chunk.start, chunk.end)), "x", whole=True, most=2)
        assert again.lines == chunk.lines


def test_where_nobody_answers_it_is_told_at_once(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray comes with the extra ray")
    engine = OnRay(Recipe("nano"), tmp_path / "in.jsonl", "127.0.0.1:1")
    with pytest.raises(EnvironmentUnavailable, match=r"no Ray cluster at '127\.0\.0\.1:1': Connection refused"):
        list(engine.route(chunks(io.BytesIO(b"one"), "x", whole=True), Question()))


def test_nothing_to_route_needs_no_cluster(tmp_path: Path) -> None:
    assert list(OnRay(Recipe("nano"), tmp_path / "in.jsonl", "127.0.0.1:1").route(iter(()), Question())) == []
