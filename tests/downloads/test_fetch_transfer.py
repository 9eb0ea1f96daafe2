"""Fetching against a web server that truncates, stalls, drops, redirects, lies and recovers."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.access import Hub
from trinity_mlx.contracts.errors import ArtifactNotFound, FileMismatch, FolderUnavailable, HomeUnavailable
from trinity_mlx.downloads.fetch import Fetched, Listener, Patience, fetch
from trinity_mlx.downloads.homes import Homes
from trinity_mlx.downloads.pins import Pin, parse_pin

from .. import file_server
from ..file_server import FileServer

CONTENT = random.Random(0).randbytes(300_000)
SMALL = b"{}"
PATIENCE = Patience(attempts=4, first_wait_s=0.01, longest_wait_s=0.05, total_s=300)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_pin(*files: tuple[str, bytes, str], name: str = "test") -> Pin:
    """A pin of ``(path, content, home)``; what it needs beyond that is made up."""
    entries = [
        {"path": path, "size": len(content), "sha256": digest(content), "home": home} for path, content, home in files
    ]
    return parse_pin(json.dumps(pin_json(name, entries)).encode(), "test pin")


def pin_json(name: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema": "trinity-mlx.pin",
        "version": 1,
        "name": name,
        "summary": "made by a test",
        "files": [*entries, {"path": "base/config.json", "size": 2, "sha256": digest(SMALL), "home": "config.json"}],
        "router": {"base": {"id": "a/b", "revision": None, "folder": "base"}, "vector": entries[0]["path"]},
    }


@dataclass
class Bench:
    """A server, a destination, and a fetch between them."""

    server: FileServer
    folder: Path
    near: Path
    hub_cache: Path
    notes: list[str] = field(default_factory=list)

    def fetch(self, *files: tuple[str, bytes, str], **options: Any) -> list[Fetched]:
        hub = Hub(options.pop("token", None), self.server.url, self.hub_cache)
        settings = {"stall_s": 60.0, "hub": hub} | options.pop("homes", {})
        with Homes(self.near, **settings) as homes:
            listener = Listener(note=self.notes.append)
            return fetch(make_pin(*files), self.folder, homes, **{"patience": PATIENCE, "listener": listener} | options)

    def one(self, *behaviours: file_server.Behaviour, **options: Any) -> Fetched:
        """Fetch one file that the server gives out by ``behaviours``; the last of them is also for what comes after."""
        home = self.server.add("/file", CONTENT, *behaviours)
        return self.fetch(("file", CONTENT, home), **options)[0]

    @property
    def target(self) -> Path:
        return self.folder / "file"

    @property
    def part(self) -> Path:
        return self.folder / ".fetch" / f"{digest(CONTENT)}.part"

    @property
    def starts(self) -> list[int]:
        return [start for _, start in self.server.requests]

    def leave_part(self, content: bytes) -> None:
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self.part.write_bytes(content)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    near = tmp_path / "near"
    near.mkdir()
    (near / "config.json").write_bytes(SMALL)
    with file_server.running() as server:
        yield Bench(server, tmp_path / "dest", near, tmp_path / "hub-cache")


def test_a_file_is_fetched_once_and_then_left_alone(bench: Bench) -> None:
    first = bench.one()
    assert first == Fetched("file", len(CONTENT), digest(CONTENT), first.status)
    assert (first.status, bench.one().status) == ("fetched", "present")
    assert bench.target.read_bytes() == CONTENT
    assert bench.starts == [0]
    assert not list(bench.folder.rglob("*.part"))


def test_a_file_that_has_changed_is_fetched_again(bench: Bench) -> None:
    bench.one()
    bench.target.write_bytes(CONTENT[::-1])
    assert bench.one().status == "fetched"
    assert bench.target.read_bytes() == CONTENT


def test_a_dropped_connection_is_resumed_where_it_broke(bench: Bench) -> None:
    assert bench.one(file_server.drop_after(100_000), file_server.drop_after(50_000), file_server.serve).size
    assert bench.target.read_bytes() == CONTENT
    assert bench.starts == [0, 100_000, 150_000]
    assert len(bench.notes) == 2


def test_a_stalled_connection_is_given_up_and_resumed(bench: Bench) -> None:
    """On a busy machine it may be given up more than once."""
    patience = replace(PATIENCE, attempts=100)
    bench.one(file_server.stall_at(120_000), homes={"stall_s": 0.3}, patience=patience)
    assert bench.target.read_bytes() == CONTENT
    assert bench.starts == sorted(bench.starts)
    assert {0, 120_000} <= set(bench.starts)
    assert "nothing came for too long" in bench.notes[0]


def test_an_answer_that_ends_early_is_carried_on_with(bench: Bench) -> None:
    bench.one(file_server.truncate_after(70_000), file_server.serve)
    assert bench.target.read_bytes() == CONTENT
    assert bench.starts == [0, 70_000]


def test_a_part_of_an_earlier_run_is_carried_on_with(bench: Bench) -> None:
    bench.leave_part(CONTENT[:200_000])
    assert bench.one().status == "resumed"
    assert bench.target.read_bytes() == CONTENT
    assert bench.starts == [200_000]


def test_a_whole_part_needs_no_request(bench: Bench) -> None:
    bench.leave_part(CONTENT)
    assert bench.one().status == "resumed"
    assert bench.starts == []


@pytest.mark.parametrize("part", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)])
def test_a_wrong_part_is_thrown_away_and_the_file_fetched_afresh(bench: Bench, part: bytes) -> None:
    bench.leave_part(part)
    assert bench.one().status == "fetched"
    assert bench.target.read_bytes() == CONTENT
    assert bench.starts[-1] == 0


def test_a_server_without_ranges_is_read_from_the_beginning(bench: Bench) -> None:
    bench.leave_part(CONTENT[:200_000])
    assert bench.one(file_server.ignore_range).status == "fetched"
    assert bench.target.read_bytes() == CONTENT


def test_a_part_that_the_server_gives_from_elsewhere_is_not_believed(bench: Bench) -> None:
    bench.leave_part(CONTENT[:200_000])
    bench.one(file_server.begin_elsewhere, file_server.serve)
    assert bench.target.read_bytes() == CONTENT
    assert bench.starts == [200_000, 0]


def test_a_refused_range_is_followed_by_a_whole_request(bench: Bench) -> None:
    bench.leave_part(CONTENT[:200_000])
    bench.one(file_server.answer(416), file_server.serve)
    assert bench.target.read_bytes() == CONTENT
    assert bench.starts == [200_000, 0]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again(bench: Bench, status: int) -> None:
    bench.one(file_server.answer(status), file_server.answer(status), file_server.serve)
    assert bench.target.read_bytes() == CONTENT
    assert bench.starts == [0, 0, 0]


def test_retry_after_is_respected_up_to_the_longest_wait(bench: Bench) -> None:
    bench.one(file_server.answer(503, Retry_After=3600), file_server.serve)
    assert "trying again in 0.1 s" in bench.notes[0]


def test_a_missing_file_is_said_at_once(bench: Bench) -> None:
    with pytest.raises(ArtifactNotFound, match=r"/nowhere answers 404.*correct the home"):
        bench.fetch(("file", CONTENT, bench.server.url + "/nowhere"))
    assert bench.starts == [0]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_names_the_token(bench: Bench, status: int) -> None:
    with pytest.raises(HomeUnavailable, match=rf"answers {status}.*give a token"):
        bench.one(file_server.answer(status))
    assert bench.starts == [0]


def test_another_refusal_is_not_tried_again(bench: Bench) -> None:
    with pytest.raises(HomeUnavailable, match="answers 418"):
        bench.one(file_server.answer(418))
    assert bench.starts == [0]


def test_redirects_are_followed_with_the_range(bench: Bench) -> None:
    elsewhere = bench.server.add("/elsewhere", CONTENT)
    bench.leave_part(CONTENT[:1000])
    bench.one(file_server.redirect(elsewhere))
    assert bench.target.read_bytes() == CONTENT
    assert bench.server.requests == [("/file", 1000), ("/elsewhere", 1000)]


def test_redirects_in_a_circle_end(bench: Bench) -> None:
    with pytest.raises(HomeUnavailable, match="leads nowhere"):
        bench.one(file_server.redirect(bench.server.url + "/file"))


def test_wrong_bytes_are_refused_with_both_hashes_and_nothing_is_left(bench: Bench) -> None:
    wrong = digest(bytes(byte ^ 1 for byte in CONTENT))
    with pytest.raises(FileMismatch) as caught:
        bench.one(file_server.wrong_bytes)
    assert wrong in str(caught.value)
    assert digest(CONTENT) in str(caught.value)
    assert not bench.target.exists()
    assert not bench.part.exists()
    assert bench.starts == [0]


def test_wrong_bytes_after_a_part_are_read_once_more_from_the_beginning(bench: Bench) -> None:
    bench.leave_part(CONTENT[:1000])
    with pytest.raises(FileMismatch):
        bench.one(file_server.wrong_bytes)
    assert bench.starts == [1000, 0]
    assert not bench.part.exists()


def test_a_file_that_changes_between_two_pieces_is_read_afresh(bench: Bench) -> None:
    bench.one(file_server.drop_after(5000), file_server.wrong_bytes, file_server.serve)
    assert bench.target.read_bytes() == CONTENT
    assert bench.starts == [0, 5000, 0]


def test_a_page_of_another_size_is_refused_before_it_is_read(bench: Bench) -> None:
    home = bench.server.add("/file", b"<html>please log in</html>")
    with pytest.raises(FileMismatch, match=rf"has 26 bytes, and the pin says {len(CONTENT)}"):
        bench.fetch(("file", CONTENT, home))
    assert not bench.target.exists()


def test_more_bytes_than_pinned_are_refused(bench: Bench) -> None:
    with pytest.raises(FileMismatch, match="more than 300000 bytes"):
        bench.one(file_server.longer)
    assert not bench.target.exists()


def test_a_server_that_never_recovers_is_given_up_and_the_bytes_kept(bench: Bench) -> None:
    with pytest.raises(HomeUnavailable, match="after 4 attempts"):
        bench.one(file_server.drop_after(0))
    assert len(bench.starts) == 4
    bench.server.requests.clear()
    with pytest.raises(HomeUnavailable, match="What came is kept"):
        bench.one(file_server.drop_after(90_000), file_server.drop_after(0))
    assert bench.part.read_bytes() == CONTENT[:90_000]
    assert bench.one().status == "resumed"


def test_a_server_that_starts_over_and_breaks_at_the_same_byte_is_given_up(bench: Bench) -> None:
    with pytest.raises(HomeUnavailable, match="after 4 attempts"):
        bench.one(file_server.ignore_range_and_drop_after(1000))
    assert bench.starts == [0, 1000, 1000, 1000]


def test_a_trickle_ends_when_the_time_is_over(bench: Bench) -> None:
    bench.leave_part(CONTENT[:500])
    with pytest.raises(HomeUnavailable, match=r"took longer than 0.2 s.*what came is kept"):
        bench.one(file_server.drip(1000, 0.02), patience=Patience(total_s=0.2))
    part = bench.part.read_bytes()
    assert len(part) >= 500
    assert CONTENT.startswith(part)


def test_an_address_where_nobody_listens_is_given_up(bench: Bench) -> None:
    with pytest.raises(HomeUnavailable, match="cannot be had after 4 attempts"):
        bench.fetch(("file", CONTENT, "http://127.0.0.1:1/file"))


def test_signatures_in_an_address_are_not_shown(bench: Bench) -> None:
    with pytest.raises(ArtifactNotFound) as caught:
        bench.fetch(("file", CONTENT, bench.server.url + "/nowhere?signature=secret"))
    assert "secret" not in str(caught.value)


def test_nothing_is_fetched_offline_but_near_files_are_taken(bench: Bench) -> None:
    (bench.near / "vector").write_bytes(CONTENT)
    near = ("file", CONTENT, "vector")
    assert [file.status for file in bench.fetch(near, homes={"offline": True})] == ["fetched", "fetched"]
    bench.target.unlink()
    with pytest.raises(HomeUnavailable, match="network is not to be used"):
        bench.one(homes={"offline": True})
    assert bench.starts == []


def test_a_file_on_the_shelf_is_linked_and_a_wrong_one_passed_over(bench: Bench, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(CONTENT)
    bad.write_bytes(CONTENT[::-1])
    assert bench.one(shelf={digest(CONTENT): bad}).status == "fetched"
    bench.target.unlink()
    assert bench.one(shelf={digest(CONTENT): good}).status == "adopted"
    assert bench.target.samefile(good)
    assert bench.starts == [0]


def test_a_part_beside_an_adopted_file_goes(bench: Bench, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_bytes(CONTENT)
    bench.leave_part(CONTENT[:100])
    assert bench.one(shelf={digest(CONTENT): good}).status == "adopted"
    assert [path.name for path in (bench.folder / ".fetch").iterdir()] == ["lock"]


def test_a_source_that_was_adopted_is_never_written_to(bench: Bench, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_bytes(CONTENT)
    bench.one(shelf={digest(CONTENT): good})
    changed = CONTENT[::-1]
    good.write_bytes(changed)
    assert bench.one().status == "fetched"
    assert good.read_bytes() == changed
    assert bench.target.read_bytes() == CONTENT


def test_a_link_that_leaves_the_destination_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    bench.folder.mkdir()
    (bench.folder / "sub").symlink_to(outside)
    with pytest.raises(FolderUnavailable, match="leaves"):
        bench.fetch(("sub/file", CONTENT, bench.server.add("/file", CONTENT)))
    assert list(outside.iterdir()) == []


def test_a_destination_that_is_a_file_is_said(bench: Bench) -> None:
    bench.folder.write_text("in the way")
    with pytest.raises(FolderUnavailable, match="cannot write into"):
        bench.one()


def test_a_disk_without_room_is_said_before_the_first_byte(bench: Bench, small_disk: Path) -> None:
    content = bytes(2_000_000)
    bench.folder = small_disk
    with pytest.raises(FolderUnavailable, match="MB are free"):
        bench.fetch(("file", content, bench.server.add("/file", content)))
    assert bench.starts == []


def test_files_on_the_hub_are_asked_for_at_its_resolve_address(bench: Bench) -> None:
    bench.server.add("/me/model/resolve/abc/folder/file", CONTENT)
    bench.server.add("/datasets/me/data/resolve/v1.0.0/file", CONTENT)
    bench.fetch(
        ("model", CONTENT, "hf://me/model@abc/folder/file"),
        ("data", CONTENT, "hf://datasets/me/data@v1.0.0/file"),
    )
    assert len(bench.starts) == 2
    assert (bench.folder / "data").read_bytes() == CONTENT


def test_the_hubs_token_goes_to_the_hub_and_not_to_where_it_sends_us(bench: Bench) -> None:
    with file_server.running() as elsewhere:
        bench.server.add("/me/model/resolve/abc/file", CONTENT, file_server.redirect(elsewhere.add("/blob", CONTENT)))
        bench.fetch(("file", CONTENT, "hf://me/model@abc/file"), token="hf_secret")
        assert bench.server.headers[0]["authorization"] == "Bearer hf_secret"
        assert "authorization" not in elsewhere.headers[0]
    bench.target.unlink()
    bench.one()
    assert "authorization" not in bench.server.headers[-1]


def test_no_token_is_looked_for_below_the_command_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    bench.server.add("/me/model/resolve/abc/file", CONTENT)
    bench.fetch(("file", CONTENT, "hf://me/model@abc/file"))
    assert "authorization" not in bench.server.headers[0]


def test_the_hubs_own_cache_is_used_first_and_verified(bench: Bench, tmp_path: Path) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub-cache" / "models--me--model" / "snapshots" / revision / "file"
    cached.parent.mkdir(parents=True)
    home = f"hf://me/model@{revision}/file"
    cached.write_bytes(CONTENT)
    assert bench.fetch(("file", CONTENT, home), homes={"offline": True})[0].status == "adopted"
    bench.target.unlink()
    cached.unlink()
    cached.write_bytes(CONTENT[::-1])
    bench.server.add(f"/me/model/resolve/{revision}/file", CONTENT)
    assert bench.fetch(("file", CONTENT, home))[0].status == "fetched"


def test_a_local_home_that_is_missing_is_said(bench: Bench) -> None:
    with pytest.raises(ArtifactNotFound, match="does not exist"):
        bench.fetch(("file", CONTENT, "not-there"))


def test_a_file_address_is_read(bench: Bench) -> None:
    (bench.near / "vector").write_bytes(CONTENT)
    assert bench.fetch(("file", CONTENT, (bench.near / "vector").as_uri()))[0].status == "fetched"
    assert bench.target.read_bytes() == CONTENT


def test_progress_is_told_up_to_the_last_byte(bench: Bench) -> None:
    seen: list[int] = []
    bench.one(listener=Listener(advance=lambda file, done: seen.append(done) if file.path == "file" else None))
    assert seen == sorted(seen)
    assert seen[-1] == len(CONTENT)
