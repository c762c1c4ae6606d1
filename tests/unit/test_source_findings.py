"""Faults that users' files showed, each with the value that is right."""

from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill.jobs.files import FileSource
from batchmill.sources import describe
from batchmill.sources.columnar.parquet import group_rows
from batchmill.sources.describing import scan
from support.source_reading import LOCATIONS, read, read_with_faults, refusal, written

DATA = Path(__file__).parent.parent / "data" / "sources"


@pytest.fixture
def only_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources are read at their beginning only when they are described."""
    monkeypatch.setattr(scan, "MAX_COMPLETE_BYTES", 10)
    monkeypatch.setattr(scan, "MIN_HEAD_BYTES", 100)


def make_delta_table(folder: Path) -> None:
    """Write a table of {1, 3, 4}, whose folder also holds replaced rows."""
    (folder / "_delta_log").mkdir(parents=True)
    (folder / "_delta_log" / f"{0:020}.json").write_text('{"protocol": {"minReaderVersion": 1}}\n')
    for name, ids in (("part-0", [1, 2, 3]), ("part-1", [4]), ("part-2", [1, 3])):
        pq.write_table(pa.table({"id": ids}), folder / f"{name}.parquet")


@pytest.mark.parametrize("asked", ["T", "T/*.parquet", "**/*.parquet", "T/sub", "."])
@pytest.mark.parametrize(
    ("mark", "kind"), [("_delta_log/0.json", "Delta"), (".hoodie/x", "Hudi"), ("metadata/v1.metadata.json", "Iceberg")]
)
def test_a_table_is_refused_in_its_folder_above_it_and_by_a_glob(
    tmp_path: Path, asked: str, mark: str, kind: str
) -> None:
    pq.write_table(pa.table({"id": [1]}), written(tmp_path, "T/sub/part.parquet", ""))
    pq.write_table(pa.table({"id": [1]}), written(tmp_path, "T/part.parquet", ""))
    written(tmp_path, f"T/{mark}", "{}")
    message = refusal(tmp_path, tmp_path / asked)
    if asked == "T" and kind != "Hudi":  # which is read
        assert f"{tmp_path}/T" in message
    else:
        assert f"{tmp_path}/T is a {kind} table" in message or "metadata.json" in message


def test_files_of_a_table_that_are_named_one_by_one_are_read(tmp_path: Path) -> None:
    make_delta_table(tmp_path / "T")
    description = describe(FileSource(path=[f"{tmp_path}/T/part-{n}.parquet" for n in (1, 2)]), LOCATIONS)
    assert description.rows == 3


def test_row_groups_say_how_many_rows_a_parquet_file_has(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": range(100)}), path, row_group_size=40)
    data = path.read_bytes()
    footer = pq.read_metadata(path)
    assert group_rows(footer) == [40, 40, 20]
    start = len(data) - 8 - footer.serialized_size
    place = data.index(b"\xc8\x01", start)  # 100 as a number of Thrift's compact protocol
    path.write_bytes(data[:place] + b"\x00\x80"[::-1] + data[place + 2 :])  # now 0, in as many bytes
    assert pq.read_metadata(path).num_rows == 0
    assert [row["n"] for row in read(tmp_path, path)] == list(range(100))


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_header_of_one_column_with_another_delimiter_is_refused_with_the_option(
    tmp_path: Path, delimiter: str
) -> None:
    path = written(tmp_path, "a.csv", f"id{delimiter}text\n1{delimiter}x\n")
    message = refusal(tmp_path, path)
    assert "delimiter" in message
    assert repr(delimiter) in message
    assert read(tmp_path, path, csv={"delimiter": delimiter}) == [{"id": 1, "text": "x"}]
    assert read(tmp_path, path, csv={"delimiter": ","}) == [{f"id{delimiter}text": f"1{delimiter}x"}]


def test_a_tsv_file_is_separated_by_tabs(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", 'id\ttext\n1\t"a\tb"\n')
    assert read(tmp_path, path) == [{"id": 1, "text": "a\tb"}]


def test_an_escape_takes_the_meaning_of_quote_delimiter_and_line_end(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'a,b\n"say \\"hi\\"\nyou",1\nx\\,y,2\n"c:\\\\",3\nx\\\ny,4\n')
    rows = read(tmp_path, path, csv={"escape": "\\"})
    assert rows == [
        {"a": 'say "hi"\nyou', "b": 1},
        {"a": "x,y", "b": 2},
        {"a": "c:\\", "b": 3},
        {"a": "x\ny", "b": 4},
    ]


@pytest.mark.parametrize("record", ['"a"b,1', '"a" ,1', '1,"x\ny"z'])
def test_text_behind_a_closing_quote_is_refused_with_its_line(tmp_path: Path, record: str) -> None:
    path = written(tmp_path, "a.csv", f'a,b\n"ok",1\n{record}\n')
    assert f"{path}, line 3: text follows the quote" in refusal(tmp_path, path)


def test_carriage_returns_as_line_ends_are_refused_instead_of_no_rows(tmp_path: Path) -> None:
    assert "carriage return without a line feed" in refusal(tmp_path, DATA / "cr_only.csv")


@pytest.mark.parametrize("year", [1, 1677, 2024, 2263, 9999])
def test_old_timestamps_of_any_year_are_right(tmp_path: Path, year: int) -> None:
    moment = datetime.datetime(year, 6, 1, 12, 30)  # noqa: DTZ001  # as the files have it
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"t": pa.array([moment], pa.timestamp("us"))}), path, use_deprecated_int96_timestamps=True)
    assert pq.ParquetFile(path).schema.column(0).physical_type == "INT96"
    assert read(tmp_path, path) == [{"t": moment}]


@pytest.mark.parametrize(
    ("first", "late"),
    [
        ("12345", "01234"),
        ("1", "0x1F"),
        ("1", " 7 "),
        ("true", "1"),
        ("1", "+5"),
        ("1", "NA"),
        ("1.5", "01.5"),
        ("1.5", ".5"),
        ("1.5", "5."),
        ("1.5", "1.e5"),
        ("1.5", "infinity"),
        ("1.5", "9007199254740993"),
    ],
)
@pytest.mark.usefixtures("only_head")
def test_a_late_csv_value_is_not_read_as_what_it_would_not_be_at_the_beginning(
    tmp_path: Path, first: str, late: str
) -> None:
    path = written(tmp_path, "a.csv", "v,p\n" + f"{first},pad\n" * 2000 + f"{late},pad\n")
    message = refusal(tmp_path, path)
    assert f"line 2002: column 'v' holds {late!r}" in message
    assert "schema" in message
    assert read(tmp_path, path, schema={"v": "string"})[-1]["v"] == late
    small = written(tmp_path, "b.csv", f"v\n{first}\n{late}\n")
    whole = describe(FileSource(path=str(small)), LOCATIONS)
    assert whole.arrow_schema.field("v").type in (pa.string(), pa.int64(), pa.float64(), pa.bool_())


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["01", "2"], pa.string()),
        (["-0", "7"], pa.int64()),
        (["0", "-12"], pa.int64()),
        (["1", "2.50"], pa.float64()),
        (["-0.5", "1e5", "1E+5"], pa.float64()),
        (["-.5", "1"], pa.string()),
        (["00.5", "1"], pa.string()),
        (["9223372036854775808", "1"], pa.string()),
        (["9007199254740993", "0.5"], pa.string()),
        (["9007199254740992", "0.5"], pa.float64()),
        (["nan", "inf"], pa.float64()),
        (["true", "False"], pa.bool_()),
        (["true", "1"], pa.string()),
    ],
)
def test_a_csv_column_has_the_narrowest_type_that_keeps_what_is_written(
    tmp_path: Path, values: list[str], kind: pa.DataType
) -> None:
    path = written(tmp_path, "a.csv", "v,w\n" + "".join(f"{value},x\n" for value in values))
    found = read_with_faults(tmp_path, path).table
    assert found.schema.field("v").type == kind
    if kind == pa.string():
        assert found["v"].to_pylist() == values


def test_text_that_is_no_utf8_is_named_with_column_and_row(tmp_path: Path) -> None:
    path = DATA / "invalid_utf8.parquet"
    assert f"{path} cannot be read: row 1 (the first one is 0): it has no valid value in column 's'" in refusal(
        tmp_path, path
    )
    found = read_with_faults(tmp_path, path, on_bad_line="dead")
    assert [(one.place, one.file) for one in found.bad] == [(1, str(path))]
    assert found.table.slice(1, 1).to_pylist() == [dict.fromkeys(found.table.column_names)]


def test_whole_numbers_beyond_int64_stay_what_they_are(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (DATA / "uint64.jsonl").read_text().splitlines()]
    assert read(tmp_path, DATA / "uint64.jsonl") == rows
    nested = [{"a": [{"id": 2**64 - 1}, {"id": 0}]}, {"a": []}]
    path = written(tmp_path, "n.jsonl", "".join(json.dumps(row) + "\n" for row in nested))
    assert read(tmp_path, path) == nested


@pytest.mark.parametrize("numbers", ["[9007199254740993, 0.5]", "[18446744073709551616]", "[18446744073709551615, -1]"])
def test_a_whole_number_that_would_change_is_refused_with_its_line(tmp_path: Path, numbers: str) -> None:
    lines = [f'{{"n": {number}}}' for number in json.loads(numbers, parse_float=str, parse_int=str)]
    path = written(tmp_path, "a.jsonl", "\n".join(lines) + "\n")
    assert f"{path}, line " in refusal(tmp_path, path)
    texts = [row["n"] for row in read(tmp_path, path, schema={"n": "string"})]
    assert texts == json.loads(numbers, parse_float=str, parse_int=str)


@pytest.mark.usefixtures("only_head")
def test_a_late_whole_number_among_fractions_is_refused_if_it_would_change(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"n": 0.5}\n' * 2000 + '{"n": 9007199254740993}\n')
    assert "line 2001: column 'n' holds 9007199254740993, which double cannot hold" in refusal(tmp_path, path)


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "txt"])
def test_folders_give_columns_in_every_format(tmp_path: Path, form: str) -> None:
    for year in (2023, 2024):
        path = written(
            tmp_path, f"T/year={year}/lang=d%20e/part.{form}", {"csv": "a\n1\n", "txt": "1\n"}.get(form, '{"a": 1}\n')
        )
        if form == "parquet":
            pq.write_table(pa.table({"a": [1]}), path)
    name, value = ("text", "1") if form == "txt" else ("a", 1)
    assert read(tmp_path, tmp_path / "T") == [{name: value, "year": year, "lang": "d e"} for year in (2023, 2024)]
    assert read(tmp_path, tmp_path / "T", columns=["year", name]) == [{"year": y, name: value} for y in (2023, 2024)]
    assert read(tmp_path, tmp_path / "T", hive_columns=False) == [{name: value}] * 2
    rows = read(tmp_path, tmp_path / "T", hive_columns=False, path_column="file")
    assert [row["file"] for row in rows] == [f"{tmp_path}/T/year={y}/lang=d%20e/part.{form}" for y in (2023, 2024)]


def test_null_words_make_no_value_and_empty_text_stays_apart(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'n,t\n1,x\nNA,NA\n3,""\n,\n')
    rows = read(tmp_path, path, csv={"null_values": ["NA", ""]})
    assert rows == [{"n": 1, "t": "x"}, {"n": None, "t": None}, {"n": 3, "t": ""}, {"n": None, "t": None}]


@pytest.mark.usefixtures("only_head")
def test_a_fraction_behind_the_head_fits_a_type_that_was_given(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"v": 1}\n' * 2000 + '{"v": 0.5, "note": "late"}\n')
    assert "column 'v'" in refusal(tmp_path, path, schema={"note": "string"})
    last = read(tmp_path, path, schema={"v": "double", "note": "string"})[-1]
    assert last == {"v": 0.5, "note": "late"}


def test_parquet_schemas_that_widen_without_loss_are_united(tmp_path: Path) -> None:
    description = describe(FileSource(path=str(DATA / "mixed_schema")), LOCATIONS)
    assert len(read(tmp_path, DATA / "mixed_schema")) == description.rows


def test_a_column_that_is_not_read_never_fails_a_source(tmp_path: Path) -> None:
    path = DATA / "mixed_column.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert read(tmp_path, path, columns=["id"]) == [{"id": row["id"]} for row in rows]
    mixed = next(name for name in rows[0] if name != "id")
    texts = [row[mixed] for row in read(tmp_path, path, json_text=[mixed])]
    assert [json.loads(text) for text in texts] == [row[mixed] for row in rows]


def test_a_folder_with_a_readme_and_a_licence_is_read(tmp_path: Path) -> None:
    for name in ("README.md", "LICENSE", "dataset_info.json", "Thumbs.db", "a.jsonl", "sub/b.jsonl"):
        written(tmp_path, f"d/{name}", '{"a": 1}\n')
    assert len(read(tmp_path, tmp_path / "d")) == 2
    written(tmp_path, "d/c.jsnl", "x")
    assert "c.jsnl" in refusal(tmp_path, tmp_path / "d")


def test_a_link_back_up_is_followed_once_by_a_glob_too(tmp_path: Path) -> None:
    written(tmp_path, "d/a.txt", "x\n")
    (tmp_path / "d/loop").symlink_to(tmp_path / "d")
    assert len(describe(FileSource(path=f"{tmp_path}/d/**/*.txt"), LOCATIONS).files) == 1


def test_a_folder_whose_name_looks_like_a_pattern_is_itself_and_braces_are_choices(tmp_path: Path) -> None:
    for name in ("run[1]/a.txt", "run[1]/b.csv", "run[1]/c.txt"):
        written(tmp_path, name, "x\n")
    names = [file.name for file in describe(FileSource(path=f"{tmp_path}/run[1]/*.txt"), LOCATIONS).files]
    assert names == [f"{tmp_path}/run[1]/a.txt", f"{tmp_path}/run[1]/c.txt"]
    chosen = describe(FileSource(path=f"{tmp_path}/run[1]/{{a,c}}.{{txt,text}}"), LOCATIONS).files
    assert [file.name for file in chosen] == names


def test_zeros_behind_gzip_data_are_passed_over_as_by_gunzip(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    text = b"".join(b'{"n": %d}\n' % n for n in range(5000))
    rows = [{"n": n} for n in range(5000)]
    for size in (1, 600, 200_000):
        path.write_bytes(gzip.compress(text) + bytes(size))
        assert read(tmp_path, path) == rows
    path.write_bytes(
        gzip.compress(text) + bytes(70_000) + gzip.compress(b'{"n": 5000}\n') + gzip.compress(b"") + bytes(3)
    )
    assert read(tmp_path, path) == [*rows, {"n": 5000}]
    path.write_bytes(gzip.compress(text) + bytes(6) + b"words")
    assert "cannot be read: its gzip data is damaged" in refusal(tmp_path, path)
    path.write_bytes(gzip.compress(text)[:-1])
    assert "cannot be read: Truncated compressed stream" in refusal(tmp_path, path)
    path.write_bytes(bytes(100))
    assert "cannot be read: its gzip data is damaged" in refusal(tmp_path, path)


def test_a_zstd_file_with_a_window_above_the_limit_is_refused_with_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    text = b'{"n": 1}\n'
    block = (1 | len(text) << 3).to_bytes(3, "little")  # the last one, not compressed
    for window in (27, 28):  # as of `zstd --long=WINDOW`: the exponent above 10 in the upper five bits
        path.write_bytes(b"\x28\xb5\x2f\xfd\x00" + bytes([(window - 10) << 3]) + block + text)
        if window == 27:
            assert read(tmp_path, path) == [{"n": 1}]
    assert "window of more than 128 MiB, which is the limit" in refusal(tmp_path, path)
    assert "--long=27" in refusal(tmp_path, path)


def test_fields_and_headers_of_any_length_are_read(tmp_path: Path) -> None:
    long = "x" * 200_000
    path = written(tmp_path, "a.csv", f"{long},b\n{long},1\n{long}\n")
    assert "line 3: expected 2 values" in refusal(tmp_path, path)
    path.write_text(f"{long},b\n{long},1\n")
    assert read(tmp_path, path) == [{long: long, "b": 1}]


def test_columns_without_a_name_are_said_to_have_none(tmp_path: Path) -> None:
    assert "has 2 columns without a name: 2, 3 (" in refusal(tmp_path, written(tmp_path, "a.csv", "a,,\n1,2,3\n"))


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_column_that_only_some_files_have_is_refused_or_null_as_asked(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    tables = (pa.table({"id": [1, 2], "tag": ["a", "b"]}), pa.table({"id": [3]}), pa.table({"id": [4], "more": [0.5]}))
    for number, table in enumerate(tables):
        if form == "parquet":
            pq.write_table(table, folder / f"{number}.parquet")
        else:
            with pa.ipc.new_file(folder / f"{number}.arrow", table.schema) as writer:
                writer.write_table(table)

    assert "`missing_columns`" in refusal(tmp_path, folder)
    assert read(tmp_path, folder, columns=["id"]) == [{"id": 1}, {"id": 2}, {"id": 3}, {"id": 4}]
    assert read(tmp_path, folder, missing_columns="null") == [
        {"id": 1, "tag": "a", "more": None},
        {"id": 2, "tag": "b", "more": None},
        {"id": 3, "tag": None, "more": None},
        {"id": 4, "tag": None, "more": 0.5},
    ]
