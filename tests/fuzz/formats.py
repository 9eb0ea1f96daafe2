"""Every file format that is read: whole examples in a folder, a way to break them, and the reader."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors import numpy as numpy_files

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.catalog import find_bundle
from trinity_mlx.artifacts.vector import adapted_shapes, read_vector, split_vector
from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.contracts.backend import Variant
from trinity_mlx.contracts.canonical import canonical_sha256
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.transcript import Transcript
from trinity_mlx.downloads.pins import read_pin
from trinity_mlx.downloads.store import Store
from trinity_mlx.evaluation.lane import find_lane, read_lane, write_lane
from trinity_mlx.evaluation.snapshot import read_snapshot
from trinity_mlx.evaluation.suite import read_suite
from trinity_mlx.export.pipeline import folder_errors
from trinity_mlx.export.workspace import claim
from trinity_mlx.files.hashing import FileHashes
from trinity_mlx.files.safetensors import read_header
from trinity_mlx.files.safetensors_writer import TensorSpec
from trinity_mlx.files.shipped import data_path
from trinity_mlx.importing.component_export import read_component_export
from trinity_mlx.parity.compare import open_stages
from trinity_mlx.parity.report import write_report
from trinity_mlx.pools.authority import read_authority
from trinity_mlx.pools.files import read_pool
from trinity_mlx.profiles.registry import ProfileRegistry
from trinity_mlx.providers.scripted import make_provider
from trinity_mlx.rules.policy import Policy
from trinity_mlx.tracing.reader import read_trace

from .. import trace_builders
from ..artifacts.test_published import write_published
from ..downloads.test_pins import GOOD as GOOD_PIN
from ..evaluation_cases import suite_document
from ..pools.test_authority import document as authority_document
from . import mutations

Breaker = Callable[[Random, Path], None]


@dataclass
class Format:
    """A kind of file: where a good one lies, how it is broken, and how it is read."""

    folder: Path
    breakers: dict[str, Breaker]
    read: Callable[[Path], object]
    inner: bool = True
    """Whether its files are parts of a folder, in whose place anything may lie."""
    whole: dict[str, bytes] = field(default_factory=dict)

    def remember(self) -> Format:
        """Keep every file's bytes, to put them back."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        self.whole = {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files}
        return self

    def break_one(self, draw: Random) -> None:
        """Put everything right, and then break one file, or replace it by something that is none."""
        self.restore()
        name = draw.choice(sorted(self.breakers))
        if self.inner and draw.random() < 0.02:
            mutations.put_odd_file(draw, self.folder / name)
        else:
            self.breakers[name](draw, self.folder / name)

    def restore(self) -> None:
        """Put back what was changed, and remove what was added."""
        for name, content in self.whole.items():
            path = self.folder / name
            if path.is_symlink() or not path.is_file() or path.read_bytes() != content:
                mutations.clear(path)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_file() and path.relative_to(self.folder).as_posix() not in self.whole:
                path.unlink()


def breaks_bytes(draw: Random, path: Path) -> None:
    """Any file."""
    path.write_bytes(mutations.mutated_bytes(draw, path.read_bytes()))


def breaks_json(draw: Random, path: Path) -> None:
    """A JSON file."""
    path.write_bytes(mutations.mutated_json(draw, json.loads(path.read_bytes())))


def breaks_tensors(draw: Random, path: Path) -> None:
    """A safetensors file."""
    path.write_bytes(mutations.mutated_tensors(draw, path.read_bytes()))


def breaks_lines(draw: Random, path: Path) -> None:
    """A file of JSON lines: one of them, or their order."""
    lines = path.read_bytes().splitlines(keepends=True)
    place = draw.randrange(len(lines))
    if draw.random() < 0.7:
        lines[place] = mutations.mutated_json(draw, json.loads(lines[place])) + b"\n"
    else:
        lines.insert(draw.randrange(len(lines)), lines.pop(place))
    path.write_bytes(b"".join(lines))


def breaks_toml(draw: Random, path: Path) -> None:
    """A TOML file: a value, a line, or its bytes."""
    lines = path.read_text(encoding="utf-8").splitlines()
    place = draw.randrange(len(lines))
    values = ("nan", "inf", "-1", "1e999", "true", '""', "[]", "{}", "1979-05-27", "9" * 400, '"\\u0000"', "[[[[]]]]")
    match draw.randrange(4):
        case 0:
            lines[place] = f"{lines[place].partition('=')[0]}= {draw.choice(values)}"
        case 1:
            del lines[place]
        case 2:
            lines.insert(place, draw.choice((lines[place], 'more = "x"', "[more]", "[[agents]]", "x" * 3000)))
    content = "\n".join(lines).encode()
    path.write_bytes(mutations.mutated_bytes(draw, content) if draw.random() < 0.4 else content)


def reseals(breaker: Breaker) -> Breaker:
    """The same, with the manifest of the bundle stating sizes, hashes and the adapter's address as they are then."""

    def broken(draw: Random, path: Path) -> None:
        breaker(draw, path)
        manifest = path if path.name == "manifest.json" else next(iter(path.parents[0].glob("manifest.json")), None)
        try:
            content = json.loads(manifest.read_bytes()) if manifest else None
            for entry in content["files"]:
                part = (manifest.parent / entry["path"]).read_bytes()
                entry.update(size=len(part), sha256=hashlib.sha256(part).hexdigest())
            digest = next(each["sha256"] for each in content["files"] if each["path"] == content["adapter"]["file"])
            described = {"base": content["base"]["ref"], "entries": content["adapter"]["entries"], "sha256": digest}
            content["adapter_ref"] = canonical_sha256(described)
            manifest.write_text(json.dumps(content))
        except (ValueError, TypeError, KeyError, StopIteration, AttributeError, OSError, RecursionError):
            return  # it is broken too much to be sealed

    return broken


def reseals_published(breaker: Breaker) -> Breaker:
    """The same for a published bundle of one file."""

    def broken(draw: Random, path: Path) -> None:
        breaker(draw, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest = path.parent / "manifest.json"
        content = json.loads(manifest.read_bytes())
        content["adapted_tensors_sha256" if "adapted" in path.name else "router_head_sha256"] = digest
        manifest.write_text(json.dumps(content))

    return broken


def formats(root: Path, base: Base, bundle: Bundle, head: np.ndarray) -> dict[str, Callable[[], Format]]:
    """Every format by name, made when it is asked for."""

    def place(name: str) -> Path:
        folder = root / name
        folder.mkdir(parents=True)
        return folder

    def own(*breakers: tuple[str, Breaker]) -> Format:
        folder = Path(shutil.copytree(bundle.folder, root / breakers[0][0] / str(len(list(root.iterdir())))))
        return Format(folder, dict(breakers), find_bundle)

    def published() -> Format:
        draw = np.random.default_rng(3)
        shapes = adapted_shapes(base.config)
        weights = {name: draw.normal(size=shapes[name]).astype(np.float32) for name in shapes}
        folder = write_published(root / "published", weights, head, layout="single_file", dtype=torch.float32)
        tensors = reseals_published(breaks_tensors)
        parts = {"adapted_tensors.safetensors": tensors, "router_head.safetensors": tensors}
        return Format(folder, {"manifest.json": breaks_json, **parts}, find_bundle)

    def bases() -> Format:
        folder = Path(shutil.copytree(base.folder, root / "base"))
        kinds = {"config.json": breaks_json, "tokenizer.json": breaks_bytes, "model.safetensors": breaks_tensors}
        return Format(folder, kinds, open_base)

    def sharded() -> Format:
        folder = Path(shutil.copytree(base.folder, root / "sharded"))
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        index = {"weight_map": dict.fromkeys(read_header(folder / "model-1.safetensors"), "model-1.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return Format(folder, {"model.safetensors.index.json": breaks_json}, open_base)

    def vectors(name: str) -> Format:
        folder, values = place(f"vector{name}"), np.random.default_rng(1).normal(size=19 * base.config.hidden_size)
        if name == ".npy":
            np.save(folder / "v.npy", values)
        else:
            numpy_files.save_file({"trinity_router_es_vector": values.astype(np.float32)}, folder / "v.safetensors")

        def read(folder: Path) -> object:
            vector = read_vector(folder / f"v{name}")
            return split_vector(vector.values, adapted_shapes(base.config), base.config.hidden_size)

        return Format(folder, {f"v{name}": breaks_bytes if name == ".npy" else breaks_tensors}, read)

    def one(name: str, content: Any, breaker: Breaker, read: Callable[[Path], object]) -> Format:
        folder = place(name.replace("/", "-"))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
        return Format(folder, {name: breaker}, lambda folder: read(folder / name), inner=False)

    def lanes() -> Format:
        shipped = data_path("fixtures", "runtime_profiles") / "mlx/nano.json"
        return one("runtime_profiles/mlx/nano.json", json.loads(shipped.read_bytes()), breaks_json, read_lane_again)

    def traces() -> Format:
        folder = place("trace")
        trace_builders.write(folder / "t.jsonl", trace_builders.good_run())
        return Format(folder, {"t.jsonl": breaks_lines}, lambda folder: read_trace(folder / "t.jsonl"), inner=False)

    def state() -> Format:
        folder = place("state")
        described = {"a": 1, "b": {"c": [1, "two"]}}
        specs = [TensorSpec("t", "F32", (4,)), TensorSpec("u", "F32", (2,))]
        with claim(folder, described, specs, resume=False, force=False) as workspace:
            workspace.record("t", workspace.adapter.write("t", [bytes(16)]))

        def read(folder: Path) -> object:
            with folder_errors(folder), claim(folder, described, specs, resume=True, force=False) as workspace:
                return workspace.finished

        kinds = {".export/state.json": breaks_json, ".export/adapter.safetensors": breaks_tensors}
        return Format(folder, kinds, read)

    def components() -> Format:
        folder, kinds = place("components"), {}
        names = ["model.embed_tokens.weight"]
        rows, side = base.config.vocab_size, base.config.hidden_size
        parts = {"U": (rows, side), "S": (side,), "V": (side, side)}
        made = {f"svd.{part}.{names[0]}": np.ones(shape, np.float32) for part, shape in parts.items()}
        files = {
            "trinity_svf_components.safetensors": made,
            "trinity_svf_scale_offsets.safetensors": {f"svf.scale_offsets.{names[0]}": np.ones(side, np.float32)},
            "trinity_router_head.safetensors": {"trinity.router_head.linear.weight": head},
        }
        for name, tensors in files.items():
            numpy_files.save_file(tensors, folder / name)
            kinds[name] = breaks_tensors
        manifest = {
            "format": "trinity_sakana_safetensors_export",
            "version": 1,
            "source": {"model_name": "test/tiny", "router_vector_sha256": "0" * 64},
            "routing": {"agent_labels": [f"a{slot}" for slot in range(len(head) - 3)]},
            "svf": {"entries": [{"source_parameter": names[0], "python_v_layout": "torch_v"}]},
        }
        (folder / "trinity_sakana_export_manifest.json").write_text(json.dumps(manifest))
        kinds["trinity_sakana_export_manifest.json"] = breaks_json
        return Format(folder, kinds, lambda folder: read_component_export(folder, base))

    def stages() -> Format:
        folder = place("stages")
        write_report(
            folder,
            {"components": {"sha256": "a" * 64, "dtype": "float32"}, "tensors": [{"name": "t", "shape": [2, 2]}]},
        )
        numpy_files.save_file({"stage.scaled_s": np.ones(4, np.float32)}, folder / "stages.safetensors")
        return Format(folder, {"report.json": breaks_json, "stages.safetensors": breaks_tensors}, open_stages)

    def records() -> Format:
        folder = place("records")
        (folder / "fetched").mkdir()
        record = {"schema": "trinity-mlx.fetched", "version": 1, "folder": str(folder / "files"), "pin": GOOD_PIN}
        (folder / "fetched" / "mine.json").write_text(json.dumps(record))
        return Format(folder, {"fetched/mine.json": breaks_json}, lambda folder: Store(folder).fetched())

    def memory() -> Format:
        folder = place("memory")
        (folder / "file").write_bytes(b"content")
        FileHashes(folder / "hashes.json", clock=lambda: 2**62).sha256(folder / "file")

        def read(folder: Path) -> object:
            digest = FileHashes(folder / "hashes.json").sha256(folder / "file", hashlib.sha256(b"content").hexdigest())
            assert digest == hashlib.sha256(b"content").hexdigest()
            return digest

        return Format(folder, {"hashes.json": breaks_json}, read)

    def profiles() -> Format:
        text = data_path("profiles", "cpu.toml").read_text(encoding="utf-8")
        folder = place("profiles")
        (folder / "profiles").mkdir()
        (folder / "profiles" / "mine.toml").write_text(text)
        return Format(
            folder, {"profiles/mine.toml": breaks_toml}, lambda at: ProfileRegistry(at).get("mine"), inner=False
        )

    def scripts(name: str) -> Format:
        content = {
            "replies": [{"role": "Worker", "turn": 0, "text": "42", "usage": {"input_tokens": 1, "output_tokens": 2}}]
        }
        toml = '[[replies]]\nrole = "Worker"\nturn = 0\ntext = "42"\nusage = { input_tokens = 1, output_tokens = 2 }\n'

        def read(path: Path) -> object:
            return make_provider(Agent(0, "puppet", "scripted", "script-1", extra={"script": str(path)}), None)

        return one(
            name,
            toml if name.endswith("toml") else content,
            breaks_toml if name.endswith("toml") else breaks_json,
            read,
        )

    def policies() -> Format:
        return one("policy.json", Policy().to_dict(), breaks_json, read_policy)

    suite = suite_document(4)
    snapshot = {"schema_version": 1, "cases": [snapshot_row(str(index)) for index in range(3)]}
    pool = data_path("fixtures", "pools", "demo.toml").read_text(encoding="utf-8")
    return {
        "manifest": lambda: own(("manifest.json", breaks_json)),
        "manifest sealed again": lambda: own(("manifest.json", reseals(breaks_json))),
        "adapter sealed again": lambda: own(("adapter.safetensors", reseals(breaks_tensors))),
        "head sealed again": lambda: own(("router_head.safetensors", reseals(breaks_tensors))),
        "published": published,
        "base": bases,
        "sharded base": sharded,
        "vector.npy": lambda: vectors(".npy"),
        "vector.safetensors": lambda: vectors(".safetensors"),
        "component export": components,
        "export state": state,
        "stages": stages,
        "fetch record": records,
        "hash memory": memory,
        "pin": lambda: one("pin.json", GOOD_PIN, breaks_json, read_pin),
        "suite": lambda: one("suite.json", suite, breaks_json, read_suite),
        "snapshot": lambda: one("snapshot.json", snapshot, breaks_json, read_snapshot),
        "lane": lanes,
        "authority": lambda: one("authority.json", authority_document(), breaks_json, read_authority),
        "pool": lambda: one("pool.toml", pool, breaks_toml, read_pool),
        "profile": profiles,
        "script.toml": lambda: scripts("script.toml"),
        "script.json": lambda: scripts("script.json"),
        "policy": policies,
        "trace": traces,
        "transcript": lambda: one("t.json", [{"role": "user", "content": "hi"}], breaks_json, read_transcript),
    }


def read_lane_again(path: Path) -> object:
    """A lane that is read can be written, and is the same then."""
    lane = read_lane(path)
    find_lane("mlx", "nano", Variant(), path.parents[2])
    again = path.with_name("again.json")
    write_lane(again, lane)
    assert read_lane(again).model_dump(exclude={"origin"}) == lane.model_dump(exclude={"origin"})
    return lane


def read_policy(path: Path) -> object:
    """Options of a policy as plain values."""
    try:
        options = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return (
        Policy().with_options(**options) if isinstance(options, dict) and all(map(str.isidentifier, options)) else None
    )


def read_transcript(path: Path) -> object:
    """Messages as plain values."""
    try:
        return Transcript.of(json.loads(path.read_bytes()))
    except (ValueError, RecursionError):
        return None


def snapshot_row(name: str) -> dict[str, Any]:
    """One case of a snapshot."""
    return {
        "id": name,
        "agent_id": 1,
        "role_id": 0,
        "token_count": 9,
        "agent_margin": 0.25,
        "role_margin": 1.5,
        "agent_logits_rounded": [0.5, 0.75],
        "role_logits_rounded": [2.0, 0.5, -0.3],
        "transcript_hash": "a" * 64,
        "route_hash": "b" * 64,
    }
