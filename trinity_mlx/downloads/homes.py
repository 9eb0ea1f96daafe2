"""Where pinned files come from: an address (``addresses``) opened as a stream.

Files on the Hub come from its resolve address through the same stream as any other web file, and not from
``hf_hub_download``: so one policy for stalls, resuming and hashes holds for all homes, the bytes lie on the disk once,
nothing carries its final name before its hash holds, and one local server tests it all. ``huggingface_hub`` still gives
the address and what its own cache already has. Tokens and keys are those that are handed over; none is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple

import httpx2

from ..contracts.access import S3, Hub
from ..contracts.errors import ArtifactNotFound, HomeUnavailable
from .addresses import HubFile, StoredFile, WebFile, parse_home, shown
from .s3_files import open_s3

_PASSING = (408, 429, 500, 502, 503, 504)
"""HTTP answers after which the same request may well succeed."""
_BLOCK = 4 * 1024 * 1024


class Interruption(Exception):
    """A transfer broke off and may be tried again, after ``retry_after`` seconds where the server said so."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Stream(NamedTuple):
    """Bytes of a file from offset ``start`` on; ``total`` is the whole file's size where the home tells it."""

    start: int
    total: int | None
    chunks: Iterator[bytes]


class Homes:
    """Opens files at their homes. A context manager, since it keeps connections.

    Args:
        folder: where relative paths start.
        offline: never use the network.
        hub: how the Hugging Face Hub is reached; asked where a file's home is there.
        s3: how S3 is reached; asked in the same way.
        stall_s: seconds without a single byte after which a transfer counts as broken.
    """

    def __init__(
        self,
        folder: Path = Path(),
        *,
        offline: bool = False,
        hub: Callable[[], Hub] = Hub,
        s3: Callable[[], S3] = S3,
        stall_s: float = 30.0,
    ) -> None:
        self._folder = folder
        self._offline = offline
        self._hub = cache(hub)
        self._s3 = cache(s3)
        self._stall_s = stall_s
        self._client = httpx2.Client(follow_redirects=True, timeout=httpx2.Timeout(stall_s))

    def __enter__(self) -> Homes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def nearby(self, home: str) -> Path | None:
        """A copy of the file that the Hub's own cache on this machine has; its content is not verified."""
        place = parse_home(home)
        if not isinstance(place, HubFile):
            return None
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(
            place.repo, place.path, self._hub().cache, revision=place.revision, repo_type=place.repo_type
        )
        return Path(cached).resolve() if isinstance(cached, str) else None

    def open(self, home: str, start: int = 0) -> AbstractContextManager[Stream]:
        """A stream of the file from byte ``start`` on, or from 0 where the home cannot begin in the middle.

        Raises, on opening or while reading:
            Interruption: it may work when tried again.
            ArtifactNotFound: the home has no such file.
            HomeUnavailable: the home refuses, or the network is needed and not to be used.
        """
        place = parse_home(home)
        if self._offline and not (isinstance(place, StoredFile) and not place.remote):
            raise HomeUnavailable(f"{shown(home)} is not on this machine, and the network is not to be used")
        match place:
            case HubFile():
                return self._open_web(*self._hub_request(place), start)
            case WebFile(url):
                return self._open_web(url, {}, start)
            case StoredFile(url):
                return self._open_stored(url if "://" in url else str(self._folder / url), start)

    def _hub_request(self, file: HubFile) -> tuple[str, dict[str, str]]:
        """The address that the Hub resolves the file at, and the user's token, if there is one, as a header."""
        from huggingface_hub import hf_hub_url

        hub = self._hub()
        url = hf_hub_url(file.repo, file.path, repo_type=file.repo_type, revision=file.revision, endpoint=hub.endpoint)
        return url, {"Authorization": f"Bearer {hub.token}"} if hub.token else {}

    @contextmanager
    def _open_web(self, url: str, headers: dict[str, str], start: int) -> Iterator[Stream]:
        response = self._request(url, headers, start)
        try:
            if response.status_code == 416 and start:
                response.close()
                response = self._request(url, headers, 0)
            _check_status(response, url)
            yield Stream(*_extent(response, url), _web_chunks(response, url))
        finally:
            response.close()

    def _request(self, url: str, headers: dict[str, str], start: int) -> httpx2.Response:
        wanted = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            return self._client.send(self._client.build_request("GET", url, headers=headers | wanted), stream=True)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.TooManyRedirects) as error:
            raise HomeUnavailable(f"{shown(url)} leads nowhere: {error}; correct the address in the pin") from None
        except httpx2.HTTPError as error:
            raise Interruption(f"{shown(url)}: {_reason(error)}") from None

    @contextmanager
    def _open_stored(self, url: str, start: int) -> Iterator[Stream]:
        file = self._open_file(url)
        with file:
            size: int = file.seek(0, 2)
            file.seek(min(start, size))
            yield Stream(min(start, size), size, _stored_chunks(file, url))

    def _open_file(self, url: str) -> IO[bytes]:
        import fsspec  # type: ignore[import-untyped]

        access = self._s3() if url.startswith("s3://") else None
        try:
            if access is not None:
                return open_s3(url, access, self._stall_s, _BLOCK)
            system, path = fsspec.url_to_fs(url)
            file: IO[bytes] = system.open(path, "rb", block_size=_BLOCK)
        except Exception as error:  # storage clients raise whatever theirs raise
            raise _storage_error(error, url) from None
        return file


def _check_status(response: httpx2.Response, url: str) -> None:
    status, what = response.status_code, f"{shown(url)} answers {response.status_code}"
    if status in (200, 206):
        return
    if status in _PASSING:
        raise Interruption(what, _seconds(response.headers.get("Retry-After")))
    if status in (404, 410):
        raise ArtifactNotFound(f"{what}: there is no such file; correct the home in the pin")
    if status in (401, 403):
        raise HomeUnavailable(f"{what}: it asks for a permission; give a token that may read it")
    raise HomeUnavailable(f"{what} {response.reason_phrase}: it does not give this file out")


def _extent(response: httpx2.Response, url: str) -> tuple[int, int | None]:
    """Where the body begins in the file, and the file's size."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        plain = "Content-Encoding" not in response.headers
        return 0, int(length) if plain and length.isdecimal() else None
    given = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", given)
    if match is None:
        raise HomeUnavailable(f"{shown(url)} sends a part without saying which (Content-Range: {given!r})")
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _web_chunks(response: httpx2.Response, url: str) -> Iterator[bytes]:
    try:
        yield from response.iter_bytes()
    except httpx2.HTTPError as error:
        raise Interruption(f"{shown(url)}: {_reason(error)}") from None


def _stored_chunks(file: IO[bytes], url: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = file.read(_BLOCK)
        except Exception as error:  # storage clients raise whatever theirs raise
            raise _storage_error(error, url) from None
        if not chunk:
            return
        yield chunk


def _storage_error(error: Exception, url: str) -> Exception:
    """What a storage client's error means for a fetch."""
    if isinstance(error, FileNotFoundError):
        return ArtifactNotFound(f"{shown(url)} does not exist: correct the home in the pin")
    if isinstance(error, ImportError):
        return HomeUnavailable(f"{shown(url)} needs the S3 client: pip install 'trinity-mlx[s3]'")
    if isinstance(error, PermissionError | IsADirectoryError) or type(error).__name__ == "NoCredentialsError":
        return HomeUnavailable(f"{shown(url)} cannot be read: {error}; check the address and your credentials")
    return Interruption(f"{shown(url)}: {_reason(error)}")


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdecimal() else None


def _reason(error: Exception) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "nothing came for too long"
    return str(error) or type(error).__name__
