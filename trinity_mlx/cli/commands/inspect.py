"""``trinity-mlx inspect``: what a bundle says about itself, after every byte of it has been verified."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..artifact_choice import locate_bundle
from ..options import NAME, json_option
from ..output import console, print_json
from ..sizes import readable
from ..tables import plain_table

if TYPE_CHECKING:
    from ...contracts.artifact import AdapterEntry, Bundle, Head


@click.command()
@click.argument("bundle", type=NAME)
@json_option
def inspect(bundle: str, as_json: bool) -> None:
    """Verify BUNDLE and show what it is: base, tensors with their shapes, head, labels, origin.

    BUNDLE is a folder, `nano`, or a name from `trinity-mlx artifacts`. Exits with 4 if anything is wrong.

    \b
    Examples:
      trinity-mlx inspect nano
      trinity-mlx inspect ./my-bundle --json
    """
    from ...artifacts.catalog import find_bundle

    description = describe(find_bundle(locate_bundle(bundle)))
    if as_json:
        print_json(description)
    else:
        _print(description)


def describe(bundle: Bundle) -> dict[str, Any]:
    """Everything about a bundle that was opened, and so verified, as JSON."""
    return {
        "name": bundle.name,
        "folder": str(bundle.folder.resolve()),
        "adapter_ref": bundle.adapter.ref,
        "base": {"id": bundle.base_id, "revision": bundle.base_revision, "ref": bundle.base_ref}
        | {"inside": bundle.base_folder is not None},
        "text_format": str(bundle.text_format),
        "part_format": str(bundle.part_format),
        "agents": list(bundle.head.labels),
        "head": _head(bundle.head),
        "window": asdict(bundle.window) if bundle.window else None,
        "guard": asdict(bundle.guard) if bundle.guard else None,
        "tensors": _tensors(bundle),
        **_manifest(bundle.folder),
        "in_published_layout": _elsewhere(bundle),
    }


def _elsewhere(bundle: Bundle) -> list[dict[str, str | None]]:
    """How each piece could be had in the published layout (``checkpoint_directory``), whose ``file`` it would be."""
    from ...artifacts.published import HEAD_KEY, target_tensor

    pieces: list[dict[str, str | None]] = [_head_elsewhere(bundle.head, HEAD_KEY)]
    for index, entry in enumerate(bundle.adapter.entries, 1):
        target = target_tensor(entry.source)
        name = target[0] if target else None
        file = f"checkpoints/{index:04d}_{name}.safetensors" if name else None
        how = _steps(entry, target[1]) if target else "that layout has no name for it"
        pieces.append({"piece": entry.source, "file": file, "key": name, "how": how})
    kept = "in no file there: who reads the bundle must know them"
    own = "agents, text format, guard" if bundle.guard else "agents, text format"
    return [*pieces, {"piece": own, "file": None, "key": None, "how": kept}]


def _head_elsewhere(head: Head, key: str) -> dict[str, str | None]:
    """A linear head that reads the usual token can be had; that layout, and its vector, have no word for another."""
    from ...contracts.artifact import ReadPosition

    if head.elu or head.position is not ReadPosition.SECOND_TO_LAST:
        why = "a low-rank head" if head.elu else f"a head that reads the {head.position} token"
        how = f"that layout and its vector hold linear heads of the second-to-last token alone, and this is {why}"
        return {"piece": "head", "file": None, "key": None, "how": how}
    return {"piece": "head", "file": "router_head.safetensors", "key": key, "how": "the same float32 values"}


def _head(head: Head) -> dict[str, Any]:
    """The head's matrices, and the token that it reads."""
    described = _tensor(head.tensor.name, head.tensor.dtype, head.tensor.shape)
    first = head.elu and _tensor(head.elu.tensor.name, head.elu.tensor.dtype, head.elu.tensor.shape)
    elu = first | {"alpha": head.elu.alpha} if first and head.elu else None
    kind = "low-rank" if head.elu else "linear"
    return described | {"kind": kind, "elu": elu, "reads": str(head.position)}


def _steps(entry: AdapterEntry, transposed_there: bool) -> str:
    from ...contracts.artifact import Execution

    merged = [] if entry.execution is Execution.REPLACE else ["multiplied into the base's tensor (export it merged)"]
    turned = ["transposed to [in, out]"] if transposed_there and not entry.transposed else []
    return ", then ".join([*merged, *turned]) or "as it is stored"


def _tensors(bundle: Bundle) -> list[dict[str, Any]]:
    """Every tensor of the adapter's files; ``execution`` is None for one that has no effect on a route."""
    from ...files.safetensors import read_header

    used = {(entry.tensor.path, entry.tensor.name): entry for entry in bundle.adapter.entries}
    tensors = []
    for path in sorted({path for path, _ in used}):
        for tensor in read_header(path).values():
            entry = used.get((path, tensor.name))
            described = _tensor(entry.source if entry else tensor.name, tensor.dtype, tensor.shape)
            how = {"execution": str(entry.execution), "transposed": entry.transposed} if entry else {"execution": None}
            tensors.append(described | how | {"file": path.relative_to(bundle.folder).as_posix()})
    return tensors


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def _manifest(folder: Path) -> dict[str, Any]:
    """What the manifest says beyond that, by its layout; all files have been verified against it."""
    from ...artifacts.manifest import read_manifest
    from ...artifacts.published_manifest import is_published, read_published_manifest

    if is_published(folder):
        published = read_published_manifest(folder)
        files = {published.router_head_artifact: published.router_head_sha256}
        files |= {place.file: place.sha256 for place in published.placed()}
        return {
            "layout": "published",
            "files": [_file(folder, path, sha256) for path, sha256 in sorted(files.items())],
            "lineage": {"vector": published.source_vector_sha256},
        }
    manifest = read_manifest(folder)
    return {
        "layout": f"{manifest.schema_name} {manifest.version}",
        "tied_embedding": manifest.tied_embedding,
        "files": [_file(folder, entry.path, entry.sha256) for entry in manifest.files],
        "made": manifest.made,
        "lineage": manifest.lineage,
    }


def _file(folder: Path, path: str, sha256: str) -> dict[str, Any]:
    return {"path": path, "size": (folder / path).stat().st_size, "sha256": sha256, "verified": True}


def _print(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    base, head, out = found["base"], found["head"], console()
    facts = Table.grid(padding=(0, 2))
    where = "inside the bundle" if base["inside"] else f"revision {base['revision'] or 'not recorded'}"
    for name, text in (
        ("bundle", f"{found['name']} ({found['layout']}), every file verified"),
        ("folder", found["folder"]),
        ("adapter", found["adapter_ref"]),
        ("base", f"{base['id']}, {where}, {base['ref'] or 'content not recorded'}"),
        ("reads", f"{found['text_format']}, parts {found['part_format']}, at the {head['reads']} token"),
        ("window", _window(found["window"])),
        ("head", _head_line(head)),
        ("guard", _guard_line(found["guard"], found["agents"])),
        ("agents", "\n".join(f"{slot}  {label}" for slot, label in enumerate(found["agents"]))),
        ("tied embedding", found.get("tied_embedding")),
        ("made", _pairs(found.get("made", {}))),
        ("lineage", _pairs(found["lineage"])),
    ):
        if text:
            facts.add_row(f"[dim]{name}[/]", escape(text))
    out.print(facts)
    out.print(_tensor_table(found["tensors"]))
    out.print(_file_table(found["files"]))
    out.print(_elsewhere_table(found["in_published_layout"]))


def _window(window: dict[str, int] | None) -> str:
    if window is None:
        return ""
    return f"a long transcript as its first {window['head']} and last {window['tail']} tokens, as in training"


def _head_line(head: dict[str, Any]) -> str:
    line, elu = f"{head['kind']}, {head['name']} {head['dtype']} {head['shape']}", head["elu"]
    return f"{line} of elu({elu['name']} {elu['shape']}), alpha {elu['alpha']}" if elu else line


def _guard_line(guard: dict[str, Any] | None, agents: list[str]) -> str:
    if guard is None:
        return ""
    rules = {
        "margin": "no agent leads by {:.3f}",
        "distance": "a transcript is further than {:.3f} from all kinds seen",
    }
    limits = [rule.format(guard[name]) for name, rule in rules.items() if guard[name] is not None]
    return f"slot {guard['slot']} ({agents[guard['slot']]}) takes over where {' or '.join(limits)}"


def _pairs(values: dict[str, str]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in values.items())


def _tensor_table(tensors: list[dict[str, Any]]) -> Any:
    from rich.text import Text

    table = plain_table("tensor", "type", "shape", "applied")
    for tensor in tensors:
        applied = tensor["execution"] or "no effect on a route"
        stored = ", stored [in, out]" if tensor.get("transposed") else ""
        cells = (tensor["name"], tensor["dtype"], str(tensor["shape"]), applied + stored)
        table.add_row(*map(Text, cells))
    return table


def _file_table(files: list[dict[str, Any]]) -> Any:
    from rich.text import Text

    table = plain_table("file", "size", "sha256", right=["size"])
    for file in files:
        table.add_row(Text(file["path"]), readable(file["size"]), file["sha256"][:12])
    return table


def _elsewhere_table(pieces: list[dict[str, str | None]]) -> Any:
    from rich.text import Text

    table = plain_table("in the published layout", "name there", "how")
    for piece in pieces:
        table.add_row(*(Text(piece[key] or "none") for key in ("piece", "key", "how")))
    return table
