"""``trinity-mlx publish``: a verified bundle to the Hugging Face Hub, with its card and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...contracts.errors import HomeUnavailable, TrinityError, UsageError
from .. import settings
from ..artifact_choice import locate_bundle
from ..options import NAME, TEXT, signed_off_option
from ..output import console
from ..sizes import readable

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

    from ...contracts.artifact import Bundle


@click.command()
@click.argument("bundle", type=NAME)
@click.argument("repo_id", type=TEXT)
@click.option("--revision", type=TEXT, metavar="TAG", help="Tag what was uploaded, so that others can pin it.")
@click.option("--private", is_flag=True, help="Make the repository private if it is new.")
@signed_off_option
@click.option("--dry-run", is_flag=True, help="Verify, and print what would be uploaded.")
def publish(
    bundle: str, repo_id: str, revision: str | None, private: bool, signed_off_by: str | None, dry_run: bool
) -> None:
    """Upload BUNDLE to the Hugging Face Hub as the model repository REPO_ID, which is created if there is none.

    The bundle is verified first. The files that its manifest names, the manifest and the card are uploaded in one
    commit; logs and temporary files stay here. The Hub takes your token from `hf auth login` or HF_TOKEN.

    \b
    Example:
      trinity-mlx publish ./my-bundle me/my-router --revision v1.0.0
    """
    from ...artifacts.catalog import find_bundle

    verified = find_bundle(locate_bundle(bundle))
    signature = (signed_off_by, datetime.now(UTC).date().isoformat()) if signed_off_by else None
    operations = plan_upload(verified, signature)
    if dry_run:
        _print_plan(operations, repo_id, revision)
        return
    url = _upload(repo_id, operations, f"Publish {verified.name} {verified.adapter.ref[:12]}", revision, private)
    console().print(f"{verified.name} is at {url}" + (f", tagged {revision}" if revision else ""), markup=False)


def plan_upload(bundle: Bundle, signature: tuple[str, str] | None = None) -> list[CommitOperationAdd]:
    """What uploading a verified bundle takes: the files that its manifest names, the manifest, and the card.

    A bundle without a card gets a short one. ``signature``, a name and a day, goes into the card; the manifest that
    goes up is true of the card that goes up, and nothing in the bundle's folder changes.

    Raises:
        UsageError: it is of the published layout, whose home is another repository.
    """
    from huggingface_hub import CommitOperationAdd

    from ...artifacts.hub_card import CARD, card_of, manifest_with, signed
    from ...artifacts.manifest import MANIFEST_NAME, read_manifest
    from ...artifacts.published_manifest import is_published

    folder = bundle.folder
    if is_published(folder):
        raise UsageError(
            f"{folder} has the layout that was published before: `trinity-mlx import` makes a bundle of it"
        )
    named = {entry.path for entry in read_manifest(folder).files} | {MANIFEST_NAME}
    sources: dict[str, Path | bytes] = {path: folder / path for path in sorted(named)}
    card = card_of(bundle)
    content = (signed(card, *signature) if signature else card).encode()
    sources |= {CARD: content, MANIFEST_NAME: manifest_with(folder, content)}
    return [
        CommitOperationAdd(path, str(source) if isinstance(source, Path) else source)
        for path, source in sources.items()
    ]


def _print_plan(operations: list[CommitOperationAdd], repo_id: str, revision: str | None) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for operation in operations:
        table.add_row(Text(operation.path_in_repo), readable(operation.upload_info.size))
    out = console()
    out.print(f"would upload to {repo_id}" + (f" and tag it {revision}" if revision else "") + ":", markup=False)
    out.print(table)


def _upload(
    repo_id: str, operations: list[CommitOperationAdd], message: str, revision: str | None, private: bool
) -> str:
    """One commit, and perhaps a tag on it; returns the commit's address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    hub = settings.hub()
    api = HfApi(endpoint=hub.endpoint, library_name="trinity-mlx", token=hub.token or False)
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        _refuse_taken_tag(api, repo, revision)
        commit = api.create_commit(repo, operations, commit_message=message)
        if revision is not None:
            api.create_tag(repo, tag=revision, revision=commit.oid)
    except HFValidationError as error:
        raise UsageError(f"{repo_id!r} is no repository's name: give OWNER/NAME ({error})") from None
    except OfflineModeIsEnabled:
        raise HomeUnavailable("HF_HUB_OFFLINE is set, and publishing needs the Hub: unset it") from None
    except TrinityError:
        raise
    except Exception as error:  # the Hub's own, and those of whatever it reaches the network with
        raise HomeUnavailable(
            f"the Hub did not take {repo_id}: {_first_line(error)}; check the name, `hf auth whoami` and the network"
        ) from None
    return commit.commit_url


def _refuse_taken_tag(api: HfApi, repo: str, revision: str | None) -> None:
    if revision is not None and api.revision_exists(repo, revision):
        raise UsageError(f"{repo} already has a revision {revision!r}: choose another tag, as pins rely on the old one")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
