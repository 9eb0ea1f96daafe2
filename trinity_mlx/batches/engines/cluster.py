"""Routing on a Ray cluster that is there, by ``ray.data``: a pool of actors with a router each.

The input lies on this machine alone, and may be larger than any memory. So what Ray Data shares out are the places of
chunks, and an actor on this machine gives workers the bytes that they ask for. A worker that dies is started again by
Ray, and its chunk is asked for again; answers come in the order of the chunks.
"""

from __future__ import annotations

import io
import json
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ...contracts.errors import EnvironmentUnavailable
from ...profiles.registry import AUTO, ProfileRegistry
from ...routing.recipe import Recipe
from ..chunks import Chunk, chunks
from ..frames import error_frame, routed_frame, routed_of
from ..records import Question, Routed
from .here import Here

_MOST_BLOCKS = 4096
_PATIENCE_S = 5.0


class OnRay:
    """Routes on a Ray cluster.

    Args:
        recipe: how each worker loads its router; what it names must be on every machine, under the same name.
        source: the file that the chunks are of, on this machine.
        address: of the cluster, ``HOST:PORT``; ``auto`` is the one that runs on this machine.
    """

    def __init__(self, recipe: Recipe, source: Path, address: str = "auto") -> None:
        self._recipe = recipe
        self._source = source.resolve()
        self._address = address

    def route(self, chunks: Iterator[Chunk], question: Question) -> Iterator[tuple[Chunk, Routed]]:
        """Each chunk with its answers, in order; of a chunk only its place is kept in memory until then.

        Raises:
            EnvironmentUnavailable: Ray is not installed, or there is no cluster.
            TrinityError: a worker cannot go on.
        """
        places = [replace(chunk, lines=()) for chunk in chunks]
        if not places:
            return
        with _connected(self._address) as ray:
            frames = self._frames(ray, places, question)
            for place, row in zip(places, frames, strict=True):
                head, _, body = row["frame"].partition(b"\n")
                yield place, routed_of((json.loads(head), body))

    def _frames(self, ray: Any, places: Sequence[Chunk], question: Question) -> Iterator[Mapping[str, Any]]:
        """The answers of the cluster, in order."""
        near = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        source = ray.remote(FileServer).options(
            num_cpus=0, scheduling_strategy=near, max_restarts=-1, max_task_retries=-1
        )
        kind, count = worker_needs(self._recipe, ray.cluster_resources())
        items = [{"first": place.first, "start": place.start, "end": place.end} for place in places]
        dataset = ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS)).map_batches(
            RayWorker,
            fn_constructor_args=(self._recipe, question, source.remote(str(self._source))),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=min(count, len(items))),
            **{kind: 1},
        )
        yield from dataset.iter_rows()


def worker_needs(recipe: Recipe, cluster: Mapping[str, float]) -> tuple[str, int]:
    """What each worker takes, and how many find room: GPUs where there are some and the profile uses them."""
    on_gpu = recipe.profile == AUTO or ProfileRegistry(recipe.config_dir).get(recipe.profile).device.startswith("cuda")
    if on_gpu and cluster.get("GPU", 0) >= 1:
        return "num_gpus", int(cluster["GPU"])
    return "num_cpus", max(int(cluster.get("CPU", 1)), 1)


class FileServer:
    """Gives parts of a file to whoever asks; an actor on the machine where the file lies."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, start: int, end: int) -> bytes:
        """The bytes from ``start`` up to ``end``."""
        with Path(self._path).open("rb") as file:
            file.seek(start)
            return file.read(end - start)


class RayWorker:
    """Routes chunks with a router of its own, loaded for the first one; an actor of a pool."""

    def __init__(self, recipe: Recipe, question: Question, source: Any) -> None:
        self._recipe = recipe
        self._question = question
        self._source = source
        self._engine: Here | None = None

    def __call__(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """A frame for each chunk; what fails is told in it, since Ray would try an error again and again."""
        places = zip(batch["first"], batch["start"], batch["end"], strict=True)
        return {"frame": [self._frame(*map(int, place)) for place in places]}

    def _frame(self, first: int, start: int, end: int) -> bytes:
        import ray

        raw = ray.get(self._source.read.remote(start, end))
        try:
            [chunk] = islice(chunks(io.BytesIO(raw), "the input", whole=True), 1)
            head, body = routed_frame(self._loaded.answer(replace(chunk, first=first), self._question))
        except Exception as error:
            head, body = error_frame(error)
        return json.dumps(head).encode() + b"\n" + body

    @property
    def _loaded(self) -> Here:
        self._engine = self._engine or Here(self._recipe.load())
        return self._engine


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, with a connection to the cluster, which is given up in the end; the cluster itself stays."""
    try:
        import ray
        import ray.data
        import ray.util.scheduling_strategies
    except ImportError:
        raise EnvironmentUnavailable("Ray is not installed: pip install 'trinity-mlx[ray]'") from None
    _refuse_silence(address)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EnvironmentUnavailable(f"no Ray cluster at {address!r}: {' '.join(str(error).split())[:300]}") from None
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        yield ray
    finally:
        ray.shutdown()


def _refuse_silence(address: str) -> None:
    """Ray itself waits for minutes where nobody answers."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()) or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), _PATIENCE_S).close()
    except OSError as error:
        raise EnvironmentUnavailable(f"no Ray cluster at {address!r}: {error.strerror or error}") from None
