"""How remote places are reached, and with whose rights: applications hand it over, and nothing below looks for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .errors import UsageError

HUB_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Hub:
    """The Hugging Face Hub: by default the public one, without a token.

    Whatever takes a hub takes a callable that gives one, and calls it only when something has to come from there; a hub
    that is called gives itself.

    Args:
        token: the user's; None sends none, whatever the environment or a login on this machine holds.
        endpoint: the Hub's address.
        cache: the folder that keeps what was downloaded; by default the one of ``huggingface_hub``.
        is_offline: take what the cache has, and never use the network.
    """

    token: str | None = field(default=None, repr=False)
    endpoint: str = HUB_ENDPOINT
    cache: Path | None = None
    is_offline: bool = False

    def __call__(self) -> Hub:
        """This hub."""
        return self


@dataclass(frozen=True, slots=True)
class S3:
    """A store that speaks S3: by default Amazon's, asked without credentials, which is enough for public buckets.

    Args:
        key: the access key's id, with ``secret``; None signs no request.
        secret: the access key.
        session_token: what temporary credentials have besides.
        region: where the bucket is.
        endpoint: the store's address; by default Amazon's of the region.
        ca_file: certificates to trust instead of the usual ones.

    Raises:
        UsageError: of ``key`` and ``secret`` one is missing.
    """

    key: str | None = None
    secret: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None
    endpoint: str | None = None
    ca_file: str | None = None

    def __post_init__(self) -> None:
        if (self.key is None) != (self.secret is None):
            raise UsageError("credentials for S3 are a key and its secret: one of the two is missing")

    def __call__(self) -> S3:
        """This store."""
        return self
