"""Files in S3 stores, read with the credentials that are handed over and no others."""

from __future__ import annotations

from typing import IO, Any

from ..contracts.access import S3


def open_s3(url: str, access: S3, stall_s: float, block: int) -> IO[bytes]:
    """The object at ``s3://BUCKET/KEY``, open for reading in blocks of ``block`` bytes.

    Raises:
        ImportError: the client is not installed.
        Exception: whatever the client raises.
    """
    from s3fs import S3FileSystem  # type: ignore[import-untyped]

    system = S3FileSystem(
        anon=access.key is None,
        key=access.key,
        secret=access.secret,
        token=access.session_token,
        endpoint_url=access.endpoint,
        session=_blind_session(),
        client_kwargs={"region_name": access.region or "us-east-1", "verify": access.ca_file or True},
        config_kwargs={
            "read_timeout": stall_s,
            "connect_timeout": stall_s,
            "ignore_configured_endpoint_urls": True,
        },
        skip_instance_cache=True,
    )
    file: IO[bytes] = system.open(url, "rb", block_size=block)
    return file


def _blind_session() -> Any:
    """A session to which no AWS variable and no file of settings means anything.

    It is never asked for credentials: each client is given its own, or signs nothing.
    """
    from aiobotocore.session import AioSession  # type: ignore[import-untyped]

    variables = {
        name: (None, None, None if name.endswith("_file") else default, cast)
        for name, (_, _, default, cast) in AioSession.SESSION_VARIABLES.items()
    }
    return AioSession(session_vars=variables)
