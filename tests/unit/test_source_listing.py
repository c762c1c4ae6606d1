"""Which files a source names, and what is said of those that cannot be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchmill.errors import BatchmillError, InvalidSource, StorageError
from batchmill.jobs.files import FileSource, SourceFormat
from batchmill.sources import describe
from batchmill.sources.files import listing
from batchmill.sources.files.opening import reading
from batchmill.storage.locations import UNRESTRICTED, Locations

LOCATIONS = Locations(UNRESTRICTED)


Paths = Path | str | list[str]


def names(path: Paths, kind: SourceFormat | None = None, locations: Locations = LOCATIONS) -> list[str]:
    path = path if isinstance(path, list) else str(path)
    return [file.name for file in describe(FileSource(path=path, format=kind), locations).files]


def make(folder: Path, *files: str, text: str = "x\n") -> list[str]:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    return [str(folder / file) for file in files]


def refusal(path: Paths, kind: SourceFormat | None = None, locations: Locations = LOCATIONS) -> str:
    with pytest.raises(InvalidSource) as caught:
        names(path, kind, locations)
    return str(caught.value)


def test_a_folder_gives_its_files_in_natural_order(tmp_path: Path) -> None:
    expected = make(tmp_path, "a-2.txt", "a-10.txt", "b/1.txt", "b/c/2.txt", "b/c/11.txt")
    make(tmp_path, "_SUCCESS", ".hidden.txt", "_temporary/3.txt", "b/.git/x.txt")
    assert names(tmp_path) == expected
    assert names(f"file://{tmp_path}/") == expected


def test_a_glob_matches_names_folders_and_any_depth(tmp_path: Path) -> None:
    make(tmp_path, "x/p-1.txt", "x/p-10.txt", "x/p-9.txt", "y/p-1.txt", "y/z/p-2.txt", "y/_q/p-3.txt", "x/.p.txt")
    assert names(tmp_path / "x/p-?.txt") == [f"{tmp_path}/x/p-1.txt", f"{tmp_path}/x/p-9.txt"]
    assert names(tmp_path / "*/p-[1].txt") == [f"{tmp_path}/x/p-1.txt", f"{tmp_path}/y/p-1.txt"]
    assert names(tmp_path / "y/**/*.txt") == [f"{tmp_path}/y/p-1.txt", f"{tmp_path}/y/z/p-2.txt"]
    assert names(tmp_path / "**/p-2.txt") == [f"{tmp_path}/y/z/p-2.txt"]
    assert names(tmp_path / "y*") == [f"{tmp_path}/y/p-1.txt", f"{tmp_path}/y/z/p-2.txt"]
    assert names(tmp_path / "x/.*.txt") == [f"{tmp_path}/x/.p.txt"]


def test_a_name_with_brackets_is_a_name_first(tmp_path: Path) -> None:
    expected = make(tmp_path, "data[1].txt")
    assert names(tmp_path / "data[1].txt") == expected


def test_a_list_keeps_its_order_and_names_each_file_once(tmp_path: Path) -> None:
    one, two, three = make(tmp_path, "1.txt", "2.txt", "3.txt")
    assert names([three, f"{tmp_path}/*.txt", one]) == [three, one, two]


@pytest.mark.parametrize(
    ("ending", "kind"),
    [("txt", "text"), ("TXT", "text"), ("jsonl", "jsonl"), ("ndjson", "jsonl"), ("csv", "csv")],
)
def test_the_ending_tells_the_format(tmp_path: Path, ending: str, kind: str) -> None:
    (path,) = make(tmp_path, f"a.{ending}", text="")
    assert describe(FileSource(path=path), LOCATIONS).format == kind


def test_a_format_that_is_given_goes_for_any_ending(tmp_path: Path) -> None:
    make(tmp_path, "README.md", "notes", "old.jsonl")
    assert len(names(tmp_path, "text")) == 3


def test_an_unknown_ending_is_named_with_what_to_do(tmp_path: Path) -> None:
    (path,) = make(tmp_path, "a.jsnl")
    message = refusal(path)
    assert path in message
    assert "Did you mean '.jsonl'" in message
    assert "'.json'" in refusal(make(tmp_path, "a.json")[0])
    assert "format 'jsonl'" in refusal(f"{tmp_path}/a.json")
    assert "Known endings: .arrow," in refusal(make(tmp_path, "noending")[0])


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.json", "`json.load`"),
        ("a.tar", "as docs/how-to/other-inputs.md shows for tar"),
        ("a.tar.gz", "as docs/how-to/other-inputs.md shows for tar"),
        ("A.AVRO", "fastavro.reader"),
        ("a.tfrecord", "TFRecordDataset"),
        ("a.warc.gz", "fastwarc"),
        ("a.orc", "format='orc'"),
        ("a.csv.bz2", "Unpack it first"),
        ("a.jsonl.xz", "Unpack it first"),
        ("a.xlsx", "read_excel"),
        ("a.sqlite", "those of a query"),
        ("a.h5", "slices of the arrays"),
        ("a.pkl", "can run code"),
    ],
)
def test_a_format_that_is_not_read_is_refused_with_a_way_to_give_its_rows(
    tmp_path: Path, name: str, advice: str
) -> None:
    message = refusal(make(tmp_path, name)[0])
    assert advice in message
    assert "Did you mean" not in message


@pytest.mark.parametrize(
    ("uri", "advice"),
    [
        ("https://example.com/a.csv", "Download it"),
        ("hf://datasets/a/b", "Download it"),
        ("postgresql://user:secret@host/db", "rows="),
        ("mongodb+srv://host/db", "rows="),
        ("kafka://broker/topic", "rows="),
        ("hdfs://node/path", "object store"),
        ("gopher://host/path", "Expected a path"),
    ],
)
def test_a_scheme_that_is_not_read_is_refused_with_what_to_do(uri: str, advice: str) -> None:
    message = refusal(uri)
    assert f"the scheme {uri.partition(':')[0]}:// of a URI is not supported" in message
    assert advice in message
    assert "secret" not in message


def test_mixed_formats_are_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "b.csv")
    message = refusal(tmp_path)
    assert "a.txt is text" in message
    assert "b.csv is csv" in message


def test_a_glob_below_a_missing_folder_names_the_folder(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    for pattern in ("none/*.txt", "none/below/**/*.txt", "a.txt/*.txt"):
        message = refusal(f"{tmp_path}/{pattern}")
        assert f"no file matches '{tmp_path}/{pattern}': the folder" in message
        assert "does not exist" in message


@pytest.mark.parametrize("ending", ["parquet.gz", "arrow.zst"])
def test_a_compressed_columnar_file_is_refused(tmp_path: Path, ending: str) -> None:
    (path,) = make(tmp_path, f"a.{ending}")
    assert "Decompress it" in refusal(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert f"there is no file or folder '{tmp_path}/none.txt'" in refusal(tmp_path / "none.txt")
    (path,) = make(tmp_path, "a.txt")
    assert "there is no file or folder" in refusal(f"{path}/b.txt")


def test_a_source_without_files_is_refused(tmp_path: Path) -> None:
    assert f"no file matches '{tmp_path}'" in refusal(tmp_path)
    make(tmp_path, "_ignored.txt")
    assert "passed over" in refusal(tmp_path)
    assert "no file matches" in refusal(tmp_path / "*.txt")
    assert "empty list" in refusal([])


@pytest.mark.parametrize(
    ("cause", "kind", "hint"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), InvalidSource, "Let the service's user read it."),
        (FileNotFoundError(errno.ENOENT, "No such file"), InvalidSource, "restore it"),
        (OSError("zlib inflate failed"), InvalidSource, "Check that the file is complete"),
        (pa.ArrowInvalid("no magic bytes"), InvalidSource, "Check that the file is complete"),
        (OSError(errno.EIO, "Input/output error"), StorageError, ""),
        (OSError(errno.ESTALE, "Stale file handle"), StorageError, ""),
    ],
)
def test_transient_errors_are_separated_from_final_ones(
    cause: Exception, kind: type[BatchmillError], hint: str
) -> None:
    location = LOCATIONS.resolve("/data/a.txt")
    with pytest.raises(kind) as caught, reading(location):
        raise cause
    assert "/data/a.txt" in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b""),
        ("a.parquet", b"PAR1 this is none"),
        ("a.arrow", b"neither is this one Arrow"),
        ("a.arrow", b""),
        ("a.txt.gz", b"this is no gzip"),
        ("a.txt.zst", b"this is no zstandard"),
    ],
)
def test_a_file_that_is_not_what_its_ending_says_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert f"{tmp_path / name} cannot be read: " in message
    assert "Check that the file is complete" in message


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    assert "neither a file nor a folder" in refusal(tmp_path)


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone")
    assert f"{tmp_path}/a.txt is a link to a file that does not exist" in refusal(tmp_path)


@pytest.mark.parametrize("asked", ["root", "root/link.txt", "root/*.txt", "root/folder", "root/folder/*", "root/**/*"])
def test_no_link_leads_out_of_the_roots(tmp_path: Path, asked: str) -> None:
    make(tmp_path, "outside/secret.txt", "root/sub/mine.txt")
    (tmp_path / "root/link.txt").symlink_to(tmp_path / "outside/secret.txt")
    (tmp_path / "root/folder").symlink_to(tmp_path / "outside")
    message = refusal(tmp_path / asked, locations=Locations([str(tmp_path / "root")]))
    assert "is outside the folders this service may use" in message


def test_a_link_inside_the_roots_is_followed_once(tmp_path: Path) -> None:
    make(tmp_path, "root/data/a.txt")
    (tmp_path / "root/data/loop").symlink_to(tmp_path / "root")
    (tmp_path / "root/b.txt").symlink_to(tmp_path / "root/data/a.txt")
    found = names(tmp_path / "root", locations=Locations([str(tmp_path / "root")]))
    assert found == [f"{tmp_path}/root/b.txt", f"{tmp_path}/root/data/a.txt"]


def test_a_path_outside_the_roots_is_refused(tmp_path: Path) -> None:
    assert "is outside" in refusal("/etc/passwd", "text", Locations([str(tmp_path)]))
    assert "is outside" in refusal(f"file://{tmp_path}/../../etc/passwd", "text", Locations([str(tmp_path)]))


def test_a_pattern_that_matches_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_FILES", 3)
    make(tmp_path, "1.txt", "2.txt", "3.txt")
    assert len(names(tmp_path)) == 3
    make(tmp_path, "4.txt")
    assert "matches more than 3 files" in refusal(tmp_path)


def test_a_glob_below_a_folder_that_does_not_exist_names_the_folder(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nope" / "*.parquet")

    assert f"no file matches '{tmp_path}/nope/*.parquet': the folder '{tmp_path}/nope' does not exist" in message


def test_many_wildcards_look_at_each_folder_once_for_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, files = tmp_path, []
    for depth in range(12):
        folder = folder / f"d{depth}"
        files += make(folder, "a.txt", "b.txt")
    looked: list[str] = []
    real = os.scandir

    def scandir(path: str) -> Any:
        looked.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert sorted(names(f"{tmp_path}{'/**' * 12}/*.txt")) == sorted(files)
    assert len(looked) == 2 * 13


def test_a_listing_that_looks_at_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, *(f"{number}.txt" for number in range(20)))
    monkeypatch.setattr(listing, "MAX_LOOKED_AT", 10)
    for path in (tmp_path, f"{tmp_path}/**/*.txt", f"{tmp_path}/*.nothing"):
        assert "takes too long: over 10 entries" in refusal(path)


def test_entries_that_a_pattern_does_not_select_do_not_matter(tmp_path: Path) -> None:
    [wanted] = make(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    assert names(f"{tmp_path}/*.txt") == names(f"{tmp_path}/**/*.txt") == [wanted]
    assert "neither a file nor a folder" in refusal(f"{tmp_path}/p*")


def test_a_cycle_of_links_below_a_recursive_pattern_ends(tmp_path: Path) -> None:
    [wanted] = make(tmp_path, "a/b/x.txt")
    (tmp_path / "a" / "b" / "back").symlink_to(tmp_path)
    assert names(f"{tmp_path}/**/*.txt") == [wanted]
