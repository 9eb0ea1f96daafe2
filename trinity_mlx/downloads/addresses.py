"""Addresses of pinned files, which are of one of these kinds:

hf://OWNER/NAME@REVISION/PATH             a model repository on the Hugging Face Hub
hf://datasets/OWNER/NAME@REVISION/PATH    a dataset repository there
https://HOST/PATH                         any web server (http:// too: the pinned hash is what protects the bytes)
s3://BUCKET/KEY                           S3 and what speaks its protocol (extra ``s3``)
file:///PATH or PATH                      this machine; a relative path starts at the pin's own folder
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HUB = re.compile(r"hf://(?P<kind>datasets/)?(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w.-]+)/(?P<path>[^?#\s]+)")
_WEB = re.compile(r"https?://[^/@\s]+/\S*")
_S3 = re.compile(r"s3://[^/@\s]+/\S+")


@dataclass(frozen=True)
class HubFile:
    """A file in a repository on the Hugging Face Hub."""

    repo: str
    repo_type: str
    revision: str
    path: str


@dataclass(frozen=True)
class WebFile:
    """A file on a web server."""

    url: str


@dataclass(frozen=True)
class StoredFile:
    """A file that fsspec reads: on this machine, or in an S3 bucket."""

    url: str

    @property
    def remote(self) -> bool:
        """True if reading it takes a network."""
        return self.url.startswith("s3://")


Home = HubFile | WebFile | StoredFile


def parse_home(text: str) -> Home:
    """The home that an address means.

    Raises:
        ValueError: it is of no known kind.
    """
    if match := _HUB.fullmatch(text):
        kind = "dataset" if match["kind"] else "model"
        return HubFile(match["repo"], kind, match["revision"], match["path"])
    if _WEB.fullmatch(text):
        return WebFile(text)
    if _S3.fullmatch(text) or text.startswith("file:///"):
        return StoredFile(text)
    if text and "://" not in text and "\0" not in text:
        return StoredFile(text)
    if re.match(r"\w+://[^/?#]*@", text):
        raise ValueError("a user's name and password never stand in a pin: take them out of the address")
    raise ValueError("a home is hf://OWNER/NAME@REVISION/PATH, https://..., s3://BUCKET/KEY, file:///... or a path")


def shown(address: str) -> str:
    """An address for messages: without what is secret in one, a user's name and password, a query and a fragment."""
    return re.sub(r"(?<=://)[^/?#]*@", "", re.split(r"[?#]", address, maxsplit=1)[0])
