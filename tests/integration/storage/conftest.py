"""What the storage tests share: a real S3 server, and a fresh place on it and on the local disk."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import boto3
import pytest

from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from support.s3_server import s3_application, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def new_bucket() -> Iterator[Callable[[str], tuple[str, Locations]]]:
    """Makes a bucket on the S3 server at a URL; gives its URI, and what resolves it."""

    def make(url: str) -> tuple[str, Locations]:
        name = f"bucket-{uuid.uuid4().hex}"
        boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket=name)
        return f"s3://{name}", Locations(UNRESTRICTED, s3_endpoint=url, s3_region="us-east-1")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield make


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """The address of an S3 server of the session's own."""
    with serving(s3_application()) as url:
        yield url


@pytest.fixture
def bucket(s3_url: str, new_bucket: Callable[[str], tuple[str, Locations]]) -> tuple[str, Locations]:
    """A fresh bucket's URI, and what resolves it."""
    return new_bucket(s3_url)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Locations]:
    """The URI of a fresh, empty place, and what resolves it: a test that uses it runs once on each kind."""
    if request.param == "local":
        return str(tmp_path / "place"), Locations(UNRESTRICTED)
    fresh: tuple[str, Locations] = request.getfixturevalue("bucket")
    return fresh


@pytest.fixture
def blobs(place: tuple[str, Locations]) -> BlobStore:
    """An empty blob store in that place."""
    uri, locations = place
    return BlobStore.open(f"{uri}/blobs", locations)
