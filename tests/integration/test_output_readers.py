"""Other libraries read an output folder as it is, without knowing Batchmill: every row once and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest

from support.outputs import manifest_path
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

FORMATS = pytest.mark.parametrize("form", ["parquet", "jsonl"])
ROWS = [{"id": n, "text": f"row {n}"} for n in range(10_000)]  # more than a shard may have, however cheap its rows are


@pytest.fixture(scope="module")
def folders(client: batchmill.Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A finished output folder of several parts in each format."""
    folder = tmp_path_factory.mktemp("readers")
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    outputs = {form: folder / f"all {form}" for form in ("parquet", "jsonl")}
    for form, output in outputs.items():
        source, spec = str(folder / "rows.jsonl"), {"path": output, "format": form}
        client.submit("echo", source=source, output=spec).wait(timeout=GRACE_S)
        assert len(json.loads(manifest_path(output).read_text())["parts"]) > 1
    return {form: str(output) for form, output in outputs.items()}


def are_all(rows: list[dict[str, Any]]) -> bool:
    return sorted(rows, key=lambda row: row["id"]) == ROWS


@FORMATS
def test_pyarrow_reads_the_folder(folders: dict[str, str], form: str) -> None:
    found = ds.dataset(folders[form], format="json" if form == "jsonl" else form)
    assert are_all(found.to_table().to_pylist())


def test_pandas_reads_the_folder(folders: dict[str, str]) -> None:
    assert are_all(pd.read_parquet(folders["parquet"]).to_dict("records"))


@FORMATS
@pytest.mark.parametrize("place", ["", "/", "/*", "/**/*.{form}"])
def test_polars_reads_the_folder(folders: dict[str, str], form: str, place: str) -> None:
    scan = pl.scan_parquet if form == "parquet" else pl.scan_ndjson
    assert are_all(scan(folders[form] + place.format(form=form)).collect().to_dicts())


@FORMATS
@pytest.mark.parametrize("place", ["/*", "/*.{form}", "/**", "/**/*.{form}"])
def test_duckdb_reads_the_folder(folders: dict[str, str], form: str, place: str) -> None:
    reader = "read_parquet" if form == "parquet" else "read_json"
    pattern = folders[form] + place.format(form=form)
    found = duckdb.sql(f"select * from {reader}(?)", params=[pattern])  # noqa: S608  # one of two constants
    assert found is not None
    assert are_all(found.to_arrow_table().to_pylist())


@FORMATS
@pytest.mark.parametrize("by_format", [True, False])
def test_datasets_reads_the_folder(
    folders: dict[str, str], form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, by_format: bool
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    options = {"split": "train", "cache_dir": str(tmp_path)}
    if by_format:
        found = load_dataset("json" if form == "jsonl" else form, data_dir=folders[form], **options)
    else:
        found = load_dataset(folders[form], **options)
    assert are_all(found.to_list())
