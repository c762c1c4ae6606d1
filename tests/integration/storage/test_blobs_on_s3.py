"""What the blob store does on S3, and what it says of a service that fails."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow as pa
import pytest
from werkzeug.wrappers import Request

from batchmill.errors import StorageError, StorageUnavailable
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from support.processes import run_python
from support.s3_server import s3_application, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def test_a_missing_bucket_is_told_at_once(bucket: tuple[str, Locations]) -> None:
    with pytest.raises(StorageError, match="there is no bucket 'nowhere'"):
        BlobStore.open("s3://nowhere/blobs", bucket[1])


def test_a_bucket_that_vanished_is_told_with_what_to_do(bucket: tuple[str, Locations]) -> None:
    blobs = BlobStore(bucket[1].resolve("s3://nowhere/blobs"))
    with pytest.raises(StorageError, match=r"could not write s3://nowhere/blobs/x: .*does not exist\.") as caught:
        blobs.put("x", b"")
    assert caught.value.hint == "Create the bucket, or correct its name."


def test_a_large_blob_goes_up_in_several_parts_and_comes_back_whole(bucket: tuple[str, Locations]) -> None:
    blobs = BlobStore.open(*bucket)
    data = os.urandom(25_000_000)
    assert blobs.put("x", data) == len(data)
    assert blobs.get("x").to_pybytes() == data


def test_an_upload_that_breaks_half_way_leaves_the_old_blob(new_bucket: Any) -> None:
    with failing_s3(lambda query: "partNumber=2" in query) as url:
        blobs = BlobStore.open(*new_bucket(url))
        blobs.put("x", b"before")
        writes: list[Callable[[], object]] = [
            lambda: blobs.put("x", bytes(25_000_000)),
            lambda: blobs.put_table("x", pa.table({"x": pa.array(range(3_000_000))})),
            lambda: blobs.put("y", bytes(25_000_000)),
        ]
        for write in writes:
            with pytest.raises(StorageError, match=r"could not write s3://.*: Permission denied\."):
                write()
        assert blobs.get("x").to_pybytes() == b"before"
        assert blobs.list() == ["x"]


def test_what_the_keys_do_not_permit_is_named_with_what_to_do(new_bucket: Any) -> None:
    denied = False
    with failing_s3(lambda _: denied) as url:
        blobs = BlobStore.open(*new_bucket(url))
        denied = True
        for use in (
            lambda: blobs.put("x", b""),
            lambda: blobs.get("x"),
            blobs.list,
            lambda: blobs.put_new("x", b""),
        ):
            with pytest.raises(StorageError, match="Permission denied") as caught:
                use()
            assert "permissions" in caught.value.hint


def test_a_server_that_is_away_is_named_with_its_setting(bucket: tuple[str, Locations]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    away = Locations(UNRESTRICTED, s3_endpoint=f"http://127.0.0.1:{port}", s3_region="us-east-1")
    blobs = BlobStore(away.resolve(bucket[0]))
    for use in (lambda: blobs.put("x", b""), lambda: blobs.get("x"), blobs.list, lambda: blobs.delete("x")):
        with pytest.raises(StorageError) as caught:
            use()
        assert "BATCHMILL_S3_ENDPOINT" in caught.value.hint
        assert f":{port}" not in caught.value.message


@pytest.mark.parametrize(
    ("status", "passes"),
    [
        ("500 Internal Server Error", True),
        ("503 Slow Down", True),
        ("520 Unknown Error", True),
        ("429 Too Many Requests", True),
        ("408 Request Timeout", True),
        ("400 Bad Request", False),
        ("403 Forbidden", False),
        ("404 Not Found", False),
        ("405 Method Not Allowed", False),
        ("301 Moved Permanently", False),
        ("501 Not Implemented", False),
    ],
)
def test_only_what_may_pass_is_worth_waiting_for(new_bucket: Any, status: str, *, passes: bool) -> None:
    answers = ""
    with failing_s3(lambda _: answers) as url:
        blobs = BlobStore.open(*new_bucket(url))
        answers = status
        with pytest.raises(StorageError) as caught:
            blobs.put("x", b"")
        assert isinstance(caught.value, StorageUnavailable) is passes


def test_an_answer_that_failed_once_is_asked_for_again(new_bucket: Any) -> None:
    failures = iter(["503 Slow Down", "500 Internal Server Error"])
    asked = False
    with failing_s3(lambda _: asked and next(failures, "")) as url:
        blobs = BlobStore.open(*new_bucket(url))
        asked = True
        blobs.put("x", b"data")
        assert next(failures, None) is None
        assert blobs.get("x").to_pybytes() == b"data"


def test_a_folder_made_by_an_empty_object_is_no_blob(bucket: tuple[str, Locations], s3_url: str) -> None:
    blobs = BlobStore.open(*bucket)
    store = boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1")
    for key in ("made/", "made/sub/", "made/empty"):
        store.put_object(Bucket=bucket[0].removeprefix("s3://"), Key=key, Body=b"")
    assert blobs.list() == ["made/empty"]
    assert not blobs.exists("made/sub")


@pytest.mark.slow
def test_a_large_file_goes_up_and_comes_back_with_little_memory(bucket: tuple[str, Locations], s3_url: str) -> None:
    code = """
        import resource, sys
        from batchmill.storage.blobs import BlobStore
        from batchmill.storage.locations import UNRESTRICTED, Locations
        blobs = BlobStore.open(sys.argv[1], Locations(UNRESTRICTED, s3_endpoint=sys.argv[2], s3_region="us-east-1"))
        def peak_mib():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        def fill(path):
            with open(path, "wb") as file:
                for number in range(12):
                    file.write(bytes([number]) * 2**23)
        blobs.put("small", b"x"); blobs.get("small")
        before = peak_mib()
        blobs.put_file("large", fill)
        uploaded = peak_mib()
        location = blobs.location("large")
        with location.objects.open(location.path) as file:
            for number in range(12):
                assert file.read(2**23) == bytes([number]) * 2**23
        print(uploaded - before, peak_mib() - before)
    """
    done = run_python(code, bucket[0], s3_url)
    uploaded, read = map(int, done.stdout.split())
    assert max(uploaded, read) < 64, done.stderr  # MiB, of 96


def test_several_threads_read_one_open_object_at_any_place(bucket: tuple[str, Locations]) -> None:
    blobs = BlobStore.open(*bucket).unsealed()
    data = os.urandom(300_000)
    blobs.put("x", data)
    location = blobs.location("x")
    assert location.objects is not None
    with location.objects.open(location.path) as file, ThreadPoolExecutor(6) as pool:
        places = [number * 7919 % 299_000 for number in range(120)]
        assert list(pool.map(lambda place: file.read_at(1000, place), places)) == [
            data[place : place + 1000] for place in places
        ]
        assert file.read_at(1000, 299_500) == data[299_500:]


def test_keys_with_any_characters_are_listed_and_read_as_they_are(bucket: tuple[str, Locations], s3_url: str) -> None:
    uri, locations = bucket
    store = boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1")
    keys = ["a b.txt", "a%20b.txt", "x*y?.txt", "ü.txt", "q#1&2=3+4.txt", "[z]{w}~^|.txt", 'back\\slash`".txt']
    for key in keys:
        store.put_object(Bucket=uri.removeprefix("s3://"), Key=f"in/{key}", Body=key.encode())
    folder = locations.resolve(f"{uri}/in")
    assert folder.objects is not None
    assert sorted(info.base_name for info in folder.entries()) == sorted(keys)
    for key in keys:
        assert folder.objects.get(folder.child(key).path).to_pybytes() == key.encode()


def test_a_key_that_no_uri_can_name_is_reported_and_not_passed_over(bucket: tuple[str, Locations], s3_url: str) -> None:
    uri, locations = bucket
    store = boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1")
    store.put_object(Bucket=uri.removeprefix("s3://"), Key="in/a//b.txt", Body=b"")
    with pytest.raises(OSError, match=r"a//b\.txt"):
        locations.resolve(f"{uri}/in").entries(recursive=True)


def test_an_open_object_that_is_written_again_is_not_mixed_with_the_new_one(bucket: tuple[str, Locations]) -> None:
    blobs = BlobStore.open(*bucket)
    blobs.put("x", b"a" * 1000)
    location = blobs.location("x")
    assert location.objects is not None
    with location.objects.open(location.path) as file:
        assert file.read(10) == b"a" * 10
        blobs.put("x", b"b" * 1000)
        with pytest.raises(OSError, match="Stale"):
            file.read(10)


@contextmanager
def failing_s3(fails: Callable[[str], bool | str]) -> Iterator[str]:
    """The address of an S3 server that refuses the requests whose query `fails` picks, by a status or with 403."""
    s3 = s3_application()

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        status = fails(environ["QUERY_STRING"])
        if not status:
            return s3(environ, start_response)
        Request(environ).get_data()
        start_response(status if isinstance(status, str) else "403 Forbidden", [("Content-Type", "application/xml")])
        return [b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"]

    with serving(answer) as url:
        yield url
