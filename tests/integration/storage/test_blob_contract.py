"""What the blob store promises, over a local folder and over S3 on a real server."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow as pa
import pytest
from werkzeug.wrappers import Request

from batchmill.errors import InvalidRequest, InvalidSettings, NotFound, StorageError, StorageUnavailable
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from support.s3_server import s3_application, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TABLE = pa.table(
    {
        "id": pa.array([3, 1, 2], pa.int16()),
        "text": ["b", None, "é"],
        "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
        "vector": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2)),
    }
)


@pytest.mark.parametrize("data", [b"", b"abc", pa.py_buffer(b"abc"), [b"a", pa.py_buffer(b"bc")], []])
def test_a_blob_reads_back_as_it_was_put(blobs: BlobStore, data: Any) -> None:
    expected = b"".join(bytes(piece) for piece in data) if isinstance(data, list) else bytes(data)
    assert blobs.put("jobs/j1/x.bin", data) == len(expected)
    assert blobs.get("jobs/j1/x.bin").to_pybytes() == expected
    assert blobs.size("jobs/j1/x.bin") == len(expected)
    assert blobs.exists("jobs/j1/x.bin")


def test_putting_a_name_again_replaces_the_blob(blobs: BlobStore) -> None:
    blobs.put("x", b"the first one, which is longer")
    blobs.put("x", b"the second")
    assert blobs.get("x").to_pybytes() == b"the second"


def test_a_table_keeps_its_schema_and_rows(blobs: BlobStore) -> None:
    table = TABLE.replace_schema_metadata({"model": "m1"})
    size = blobs.put_table("t.arrow", table)
    found = blobs.read_table("t.arrow")
    assert size == blobs.size("t.arrow")
    assert found.schema.equals(table.schema, check_metadata=True)
    assert found.equals(table)


def test_a_table_without_rows_keeps_its_schema(blobs: BlobStore) -> None:
    blobs.put_table("t.arrow", TABLE.schema.empty_table())
    assert blobs.read_table("t.arrow").equals(TABLE.schema.empty_table())


def test_chunks_with_dictionaries_of_their_own_are_one_column(blobs: BlobStore) -> None:
    chunks = [pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", None]).dictionary_encode()]
    blobs.put_table("t.arrow", pa.table({"kind": pa.chunked_array(chunks)}))
    assert blobs.read_table("t.arrow")["kind"].to_pylist() == ["a", "b", "c", None]


def test_a_missing_blob_is_not_found_and_named(blobs: BlobStore) -> None:
    for look in (blobs.get, blobs.size, blobs.read_table):
        with pytest.raises(NotFound, match=r"blobs/jobs/none"):
            look("jobs/none")
    assert not blobs.exists("jobs/none")


def test_a_folder_is_no_blob(blobs: BlobStore) -> None:
    blobs.put("a/b", b"x")
    assert not blobs.exists("a")
    with pytest.raises(NotFound):
        blobs.size("a")


def test_a_blob_that_is_no_table_is_named(blobs: BlobStore) -> None:
    blobs.put("t.arrow", b"certainly no table")
    with pytest.raises(StorageError, match=r"could not read .*t\.arrow"):
        blobs.read_table("t.arrow")


def test_lists_are_sorted_relative_to_the_root_and_of_one_folder_only(blobs: BlobStore) -> None:
    for name in ("b/2", "b/10", "a/x/y", "c", "bb/1"):
        blobs.put(name, b"")
    assert blobs.list("") == ["a/x/y", "b/10", "b/2", "bb/1", "c"]
    assert blobs.list("b") == ["b/10", "b/2"]
    assert blobs.list("none") == []


def test_deleting_removes_one_blob_and_a_missing_one_is_fine(blobs: BlobStore) -> None:
    blobs.put("a/1", b"")
    blobs.put("a/2", b"")
    blobs.delete("a/1")
    blobs.delete("a/1")
    assert blobs.list() == ["a/2"]


def test_deleting_a_folder_removes_all_below_it_and_nothing_beside(blobs: BlobStore) -> None:
    for name in ("a/1", "a/b/2", "ab/3"):
        blobs.put(name, b"")
    blobs.delete_folder("a")
    blobs.delete_folder("a")
    assert blobs.list() == ["ab/3"]


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "a b", "é", "a\n", "x" * 201])
def test_what_is_no_name_is_refused(blobs: BlobStore, name: str) -> None:
    for use in (blobs.get, blobs.delete, blobs.delete_folder, blobs.location, lambda name: blobs.put(name, b"")):
        with pytest.raises(InvalidRequest, match="is no blob name"):
            use(name)


def test_only_the_first_of_several_new_blobs_of_a_name_is_written(blobs: BlobStore) -> None:
    assert blobs.put_new("x", b"1")
    assert not blobs.put_new("x", b"2")
    assert blobs.get("x").to_pybytes() == b"1"


def test_of_two_takers_at_once_exactly_one_creates_the_blob_every_time(place: tuple[str, Locations]) -> None:
    stores = [BlobStore.open(f"{place[0]}/blobs", place[1]) for _ in range(2)]
    start = threading.Barrier(len(stores))

    def take(store: BlobStore, name: str, data: bytes) -> bool:
        start.wait()
        return store.put_new(name, data)

    with ThreadPoolExecutor(len(stores)) as pool:
        for number in range(200):
            name = f"taken-{number}"
            wins = list(pool.map(take, stores, [name] * 2, [b"first", b"second"]))
            assert sorted(wins) == [False, True]
            assert stores[0].get(name).to_pybytes() == (b"first" if wins[0] else b"second")


def test_a_file_that_could_not_be_filled_leaves_nothing(blobs: BlobStore) -> None:
    blobs.put("x", b"before")

    def fill(path: str) -> None:
        with open(path, "wb") as file:  # noqa: PTH123  # what libraries do
            file.write(b"half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        blobs.put_file("x", fill)
    assert blobs.get("x").to_pybytes() == b"before"
    assert blobs.list() == ["x"]


def test_readers_see_one_whole_blob_or_the_other_while_threads_write(blobs: BlobStore) -> None:
    whole = {bytes([number]) * 100_000 for number in range(4)}
    blobs.put("x", bytes(100_000))
    with ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(blobs.put, "x", data) for data in sorted(whole) * 5]
        reads = [pool.submit(lambda: blobs.get("x").to_pybytes()) for _ in range(40)]
        assert {read.result() for read in reads} <= whole
        assert {write.result() for write in writes} == {100_000}
    assert blobs.list() == ["x"]


def test_a_store_that_is_no_place_is_an_invalid_setting() -> None:
    with pytest.raises(InvalidSettings, match="no absolute path"):
        BlobStore.open("relative/path", Locations(UNRESTRICTED))


class TestLocal:
    def test_a_read_table_outlives_its_file_even_if_that_is_cut_short(self, tmp_path: Path) -> None:
        blobs = BlobStore.open(str(tmp_path), Locations(UNRESTRICTED))
        blobs.put_table("t.arrow", pa.table({"x": pa.array(range(1_000_000))}))
        table = blobs.read_table("t.arrow")
        (tmp_path / "t.arrow").write_bytes(b"")
        with pytest.raises(StorageError, match=r"t\.arrow"):
            blobs.read_table("t.arrow")
        blobs.delete("t.arrow")
        assert table["x"].to_pylist() == list(range(1_000_000))

    def test_what_dead_writers_left_is_out_of_sight_and_can_be_deleted(self, tmp_path: Path) -> None:
        blobs = BlobStore.open(str(tmp_path), Locations(UNRESTRICTED))
        code = """
            import os, sys
            from batchmill.storage.blobs import BlobStore
            from batchmill.storage.locations import UNRESTRICTED, Locations
            blobs = BlobStore.open(sys.argv[1], Locations(UNRESTRICTED))
            blobs.put("a/whole", b"x")
            blobs.put_file("a/half", lambda path: (open(path, "wb").write(b"half"), os._exit(9)))
        """
        assert run_python(code, str(tmp_path)).returncode == 9
        assert len(list((tmp_path / "a").iterdir())) == 2
        assert blobs.list() == ["a/whole"]
        blobs.delete_unfinished("a")
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["whole"]

    def test_a_full_disk_leaves_nothing_and_says_what_could_not_be_written(self, tmp_path: Path) -> None:
        code = """
            import resource, sys
            import pyarrow as pa
            from batchmill.storage.blobs import BlobStore
            from batchmill.errors import StorageError
            from batchmill.storage.locations import UNRESTRICTED, Locations
            from batchmill.jobs.shard import ShardId
            from batchmill.sinks.parts import part_format
            from batchmill.sinks.result_store import PartFiles
            blobs = BlobStore.open(sys.argv[1], Locations(UNRESTRICTED))
            blobs.put("x", b"before")
            table = pa.table({"x": range(500_000)})
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            for write in (
                lambda: blobs.put("x", bytes(1_000_000)),
                lambda: blobs.put_table("x", table),
                lambda: PartFiles(blobs, part_format("parquet")).write(ShardId((0,)), 1, table),
                lambda: PartFiles(blobs, part_format("jsonl")).write(ShardId((0,)), 1, table),
            ):
                try:
                    write()
                except StorageError as error:
                    print(error.message)
        """
        done = run_python(code, str(tmp_path))
        names = ["x", "x", "part-00000000-a1.parquet", "part-00000000-a1.jsonl"]
        refused = [f"could not write {tmp_path}/{name}: File too large." for name in names]
        assert done.stdout.splitlines() == refused, done.stderr
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x"]
        assert (tmp_path / "x").read_bytes().startswith(b"before")

    def test_a_file_where_a_folder_should_be_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(StorageError, match=r"could not use .*file/blobs: Not a directory"):
            BlobStore.open(f"{tmp_path}/file/blobs", Locations(UNRESTRICTED))

    def test_a_new_blob_is_never_seen_before_it_is_filled(self, tmp_path: Path) -> None:
        blobs = BlobStore.open(str(tmp_path), Locations(UNRESTRICTED))
        data = b"x" * 100_000
        with ThreadPoolExecutor(1) as pool:
            for number in range(100):
                written = pool.submit(blobs.put_new, f"new-{number}", data)
                while not blobs.exists(f"new-{number}"):
                    assert not written.done() or written.result()
                assert blobs.get(f"new-{number}").size == len(data)
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    def test_a_disk_without_hard_links_still_has_one_writer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        blobs = BlobStore.open(str(tmp_path), Locations(UNRESTRICTED))
        assert [blobs.put_new("x", data) for data in (b"1", b"2")] == [True, False]
        assert blobs.get("x").to_pybytes() == b"1"
        assert [path.name for path in tmp_path.iterdir()] == ["x"]


class TestS3:
    def test_a_missing_bucket_is_told_at_once(self, bucket: tuple[str, Locations]) -> None:
        with pytest.raises(StorageError, match="there is no bucket 'nowhere'"):
            BlobStore.open("s3://nowhere/blobs", bucket[1])

    def test_a_bucket_that_vanished_is_told_with_what_to_do(self, bucket: tuple[str, Locations]) -> None:
        blobs = BlobStore(bucket[1].resolve("s3://nowhere/blobs"))
        with pytest.raises(StorageError, match=r"could not write s3://nowhere/blobs/x: .*does not exist\.") as caught:
            blobs.put("x", b"")
        assert caught.value.hint == "Create the bucket, or correct its name."

    def test_a_large_blob_goes_up_in_several_parts_and_comes_back_whole(self, bucket: tuple[str, Locations]) -> None:
        blobs = BlobStore.open(*bucket)
        data = os.urandom(25_000_000)
        assert blobs.put("x", data) == len(data)
        assert blobs.get("x").to_pybytes() == data

    def test_an_upload_that_breaks_half_way_leaves_the_old_blob(self, new_bucket: Any) -> None:
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

    def test_what_the_keys_do_not_permit_is_named_with_what_to_do(self, new_bucket: Any) -> None:
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

    def test_a_server_that_is_away_is_named_with_its_setting(self, bucket: tuple[str, Locations]) -> None:
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
    def test_only_what_may_pass_is_worth_waiting_for(self, new_bucket: Any, status: str, *, passes: bool) -> None:
        answers = ""
        with failing_s3(lambda _: answers) as url:
            blobs = BlobStore.open(*new_bucket(url))
            answers = status
            with pytest.raises(StorageError) as caught:
                blobs.put("x", b"")
            assert isinstance(caught.value, StorageUnavailable) is passes

    def test_an_answer_that_failed_once_is_asked_for_again(self, new_bucket: Any) -> None:
        failures = iter(["503 Slow Down", "500 Internal Server Error"])
        asked = False
        with failing_s3(lambda _: asked and next(failures, "")) as url:
            blobs = BlobStore.open(*new_bucket(url))
            asked = True
            blobs.put("x", b"data")
            assert next(failures, None) is None
            assert blobs.get("x").to_pybytes() == b"data"

    def test_a_folder_made_by_an_empty_object_is_no_blob(self, bucket: tuple[str, Locations], s3_url: str) -> None:
        blobs = BlobStore.open(*bucket)
        store = boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1")
        for key in ("made/", "made/sub/", "made/empty"):
            store.put_object(Bucket=bucket[0].removeprefix("s3://"), Key=key, Body=b"")
        assert blobs.list() == ["made/empty"]
        assert not blobs.exists("made/sub")

    def test_a_large_file_goes_up_and_comes_back_with_little_memory(
        self, bucket: tuple[str, Locations], s3_url: str
    ) -> None:
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

    def test_several_threads_read_one_open_object_at_any_place(self, bucket: tuple[str, Locations]) -> None:
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

    def test_keys_with_any_characters_are_listed_and_read_as_they_are(
        self, bucket: tuple[str, Locations], s3_url: str
    ) -> None:
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

    def test_a_key_that_no_uri_can_name_is_reported_and_not_passed_over(
        self, bucket: tuple[str, Locations], s3_url: str
    ) -> None:
        uri, locations = bucket
        store = boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1")
        store.put_object(Bucket=uri.removeprefix("s3://"), Key="in/a//b.txt", Body=b"")
        with pytest.raises(OSError, match=r"a//b\.txt"):
            locations.resolve(f"{uri}/in").entries(recursive=True)

    def test_an_open_object_that_is_written_again_is_not_mixed_with_the_new_one(
        self, bucket: tuple[str, Locations]
    ) -> None:
        blobs = BlobStore.open(*bucket)
        blobs.put("x", b"a" * 1000)
        location = blobs.location("x")
        assert location.objects is not None
        with location.objects.open(location.path) as file:
            assert file.read(10) == b"a" * 10
            blobs.put("x", b"b" * 1000)
            with pytest.raises(OSError, match="Stale"):
                file.read(10)


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


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
