"""The bundle's card: what it is and how it was made, for people."""

from __future__ import annotations

from collections.abc import Iterator

from ..artifacts.bundle import BundleDraft
from .request import ExportRequest, TiedEmbedding
from .targets import Work

_TIED = {
    TiedEmbedding.EMBED_TOKENS: "the embedding takes its own offsets, and so does `lm_head`",
    TiedEmbedding.LM_HEAD: "the embedding takes the offsets of `lm_head`",
    TiedEmbedding.COMPOUND: "the embedding takes its own offsets and then those of `lm_head`",
}


def card(request: ExportRequest, work: Work, draft: BundleDraft) -> str:
    """The text of ``README.md``."""
    return "\n".join(_lines(request, work, draft)) + "\n"


def _lines(request: ExportRequest, work: Work, draft: BundleDraft) -> Iterator[str]:
    base = request.base_id + (f"@{request.base_revision}" if request.base_revision else "")
    yield from (f"# {work.name}", "")
    yield f"A router: an adapter and a routing head for `{base}`, made by `trinity-mlx export`. Use it with"
    yield from ("", f'    trinity-mlx route --artifact FOLDER --base {base} "..."', "")
    yield from ("| | |", "| --- | --- |")
    yield f"| base content | `{request.base.ref}` |"
    yield f"| trained vector | `{work.vector_sha256}` |"
    yield f"| method | {request.method}, written {request.write} |"
    yield f"| tied embedding | `{request.tied_embedding}`: {_TIED[request.tied_embedding]} |"
    yield f"| text format | `{request.text_format}` |"
    yield f"| made with | {', '.join(f'{key} {value}' for key, value in draft.made.items())} |"
    yield from (
        "",
        "## Agent slots",
        "",
        "Labels from training; which model is called is the provider pool's decision.",
        "",
    )
    yield from (f"{slot}. {label}" for slot, label in enumerate(work.agents))
    yield from ("", "## Adapted tensors", "", "| tensor | source | applied |", "| --- | --- | --- |")
    executions = work.executions(request.write)
    for target in work.targets:
        shape = " x ".join(map(str, target.source.shape))
        yield f"| `{target.name}` | {target.source.dtype} {shape} | {executions[target.name]} |"
