"""The card of an imported bundle: what it is and where it comes from, for people."""

from __future__ import annotations

from collections.abc import Iterator

from ..artifacts.bundle import BundleDraft

CARD_FILE = "README.md"


def card(draft: BundleDraft) -> str:
    """The text of ``README.md``."""
    return "\n".join(_lines(draft)) + "\n"


def _lines(draft: BundleDraft) -> Iterator[str]:
    base = draft.base_id + (f"@{draft.base_revision}" if draft.base_revision else "")
    yield from (f"# {draft.name}", "")
    yield f"A router: an adapter and a routing head for `{base}`, made by `trinity-mlx import`. Use it with"
    yield from ("", f'    trinity-mlx route --artifact FOLDER --base {base} "..."', "")
    yield from (
        "| | |",
        "| --- | --- |",
        f"| base content | `{draft.base_ref}` |",
        f"| text format | `{draft.text_format}` |",
    )
    yield from (f"| {key.replace('_', ' ')} | {value} |" for key, value in draft.made.items())
    yield from ("", "## Made from", "", "| what | sha256 |", "| --- | --- |")
    yield from (f"| {what} | `{sha256}` |" for what, sha256 in draft.lineage.items())
    yield from ("", "## Agent slots", "")
    yield from (f"{slot}. {label}" for slot, label in enumerate(draft.agents))
    yield from ("", "## Adapted tensors", "", "| tensor | applied |", "| --- | --- |")
    yield from (f"| `{source}` | {execution} |" for source, execution in draft.executions.items())
