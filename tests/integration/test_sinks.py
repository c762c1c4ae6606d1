"""Jobs whose rows go into a store, end to end, with Lance; every store passes `support.store_contract` besides."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill import Stage
from batchmill.errors import (
    BatchmillError,
    Conflict,
    InvalidOutput,
    InvalidRequest,
    InvalidRows,
    JobFailed,
    NotFound,
    UnknownOperator,
)
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import batchmill

    Submit = Callable[..., batchmill.Job]


def rows_of(count: int, word: str = "text") -> list[dict[str, Any]]:
    return [{"doc": f"d{n}", "text": f"{word} {n}", "embedding": [float(n), 1.0, n % 7 / 7]} for n in range(count)]


def stored(to: Path) -> list[tuple[str, str, list[float]]]:
    table = lance.dataset(str(to)).to_table()
    return sorted((row["doc"], row["text"], row["embedding"]) for row in table.to_pylist())


def expected(rows: list[dict[str, Any]]) -> list[tuple[str, str, list[float]]]:
    found = pa.table({"v": pa.array([row["embedding"] for row in rows], pa.list_(pa.float32()))})["v"].to_pylist()
    return sorted((row["doc"], row["text"], vector) for row, vector in zip(rows, found, strict=True))


def test_the_rows_of_a_job_are_in_the_store_and_the_job_says_how_many(client: batchmill.Client, tmp_path: Path) -> None:
    rows, to = rows_of(3_000), tmp_path / "all.lance"
    job = client.submit("echo", rows, sink=str(to)).wait(GRACE_S)
    assert stored(to) == expected(rows)
    status = job.status()
    assert (status.operator, status.rows_done, status.rows_total) == ("echo", 3_000, 3_000)
    assert [stage.name for stage in status.stages] == ["echo", "store", "publish"]
    assert status.stages["store"].rows_filtered == 0
    (summary,) = job.results()
    assert (summary["rows"], summary["written"], summary["deleted"]) == (3_000, 3_000, 0)


def test_the_same_job_twice_leaves_its_rows_once_and_another_takes_their_place(
    client: batchmill.Client, tmp_path: Path
) -> None:
    to = tmp_path / "twice.lance"
    for _ in range(2):
        client.submit("echo", rows_of(300), sink=to).wait(GRACE_S)
        assert stored(to) == expected(rows_of(300))
    client.submit("echo", rows_of(200, "other"), sink=to).wait(GRACE_S)
    assert stored(to) == expected(rows_of(200, "other"))


def test_of_jobs_that_are_submitted_into_one_place_at_once_one_is_accepted(
    client: batchmill.Client, tmp_path: Path
) -> None:
    rows = [{**row, "id": n} for n, row in enumerate(rows_of(2))]
    to, gate = tmp_path / "at-once.lance", tmp_path / "gate"
    client.submit("echo", rows_of(10), sink=to).wait(GRACE_S)  # a claim is there

    def submit(_: int) -> batchmill.Job | None:
        try:
            return client.submit("gated", rows, sink=to, params={"gate": str(gate)})
        except Conflict:
            return None

    with ThreadPoolExecutor(12) as threads:
        accepted = [job for job in threads.map(submit, range(12)) if job is not None]
    gate.touch()
    assert len(accepted) == 1
    accepted[0].wait(GRACE_S)
    assert stored(to) == expected(rows)


def test_pieces_of_a_document_that_got_shorter_go_and_other_documents_stay(
    client: batchmill.Client, tmp_path: Path
) -> None:
    to = tmp_path / "pieces.lance"
    sink = {"to": str(to), "id": "doc", "mode": "upsert"}

    def load(rows: list[dict[str, Any]]) -> None:
        client.submit("pieces", rows, sink=sink).wait(GRACE_S)

    load([{"doc": f"d{n}", "count": 1 + n % 5} for n in range(60)])
    load([{"doc": f"d{n}", "count": 1} for n in range(20)])
    counts = lance.dataset(str(to)).to_table(columns=["doc"])["doc"].value_counts().to_pylist()
    assert {one["values"]: one["counts"] for one in counts} == {f"d{n}": 1 if n < 20 else 1 + n % 5 for n in range(60)}


def test_rows_that_a_store_cannot_take_are_dead_letters_and_come_in_by_a_replay(
    client: batchmill.Client, tmp_path: Path
) -> None:
    rows, to = rows_of(50), tmp_path / "dead.lance"
    rows[3]["embedding"], rows[7]["embedding"], rows[9]["doc"] = [1.0], [float("nan"), 0.0, 0.0], None
    job = client.submit("echo", rows, sink={"to": str(to), "id": "doc"}).wait(GRACE_S)
    letters = {letter.index: letter for letter in job.dead_letters(stage="store")}
    assert letters.keys() == {3, 7, 9}
    assert "1 numbers, those of other rows 3" in letters[3].message
    assert stored(to) == expected([row for n, row in enumerate(rows) if n not in letters])
    edits = {n: {"embedding": [float(n), 0.0, 0.0], "doc": f"d{n}"} for n in letters}
    job.replay(stage="store", edits=edits).wait(GRACE_S)
    fixed = [row | edits.get(n, {}) for n, row in enumerate(rows)]
    assert stored(to) == expected(fixed)
    assert job.status().rows_dead == 0
    (index,) = [one for one in client.indexes() if one.name == "dead"]
    assert (index.rows, index.job) == (50, job.id)


def test_vectors_that_are_empty_or_of_another_length_are_dead_letters_and_stay_so_until_they_fit(
    client: batchmill.Client, tmp_path: Path
) -> None:
    nothing = client.submit("echo", [{"doc": "a", "embedding": []}], sink=tmp_path / "nothing.lance").wait(GRACE_S)
    assert [letter.index for letter in nothing.dead_letters()] == [0]
    rows, to = rows_of(20), tmp_path / "short.lance"
    rows[3]["embedding"] = [1.0]
    job = client.submit("echo", rows, sink={"to": str(to), "id": "doc"}).wait(GRACE_S)
    again = job.replay(stage="store").wait(GRACE_S)
    (letter,) = again.dead_letters()
    assert "1 numbers, those of other rows 3" in letter.message
    assert stored(to) == expected([row for row in rows if row["doc"] != "d3"])


@pytest.mark.parametrize("columns", [{"a.b": 1}, {"embedding.x": 1}])
def test_columns_that_a_store_cannot_have_fail_the_job_at_once(
    client: batchmill.Client, tmp_path: Path, columns: dict[str, Any]
) -> None:
    with pytest.raises(JobFailed, match="Schema"):
        client.submit("echo", [rows_of(1)[0] | columns], sink=tmp_path / "dots.lance").wait(GRACE_S)


def test_a_column_of_lists_is_no_id(client: batchmill.Client, tmp_path: Path) -> None:
    rows = [row | {"tags": ["x"]} for row in rows_of(2)]
    with pytest.raises(JobFailed, match="cannot be ids"):
        client.submit("echo", rows, sink={"to": str(tmp_path / "ids.lance"), "id": "tags"}).wait(GRACE_S)


def test_a_replay_is_refused_when_another_job_has_written_since(client: batchmill.Client, tmp_path: Path) -> None:
    rows, to = rows_of(5), tmp_path / "since.lance"
    rows[3]["embedding"] = []
    job = client.submit("echo", rows, sink=to).wait(GRACE_S)
    client.submit("echo", rows_of(5), sink=to).wait(GRACE_S)
    with pytest.raises(Conflict, match="another job has written"):
        job.replay(stage="store")


def test_a_job_file_names_a_sink(client: batchmill.Client, tmp_path: Path) -> None:
    from batchmill.client.submitting.job_file import read_job_file

    pq.write_table(pa.Table.from_pylist(rows_of(20)), tmp_path / "in.parquet")
    file = tmp_path / "pipe.toml"
    file.write_text('source = "in.parquet"\n[sink]\nto = "out.lance"\nid = "doc"\n[[stages]]\noperator = "echo"\n')
    client.submit(**read_job_file(file, [("sink.mode", "upsert")])).wait(GRACE_S)
    assert stored(tmp_path / "out.lance") == expected(rows_of(20))


def test_two_documents_of_one_id_fail_the_job_and_nothing_is_published(
    client: batchmill.Client, tmp_path: Path
) -> None:
    rows, to = rows_of(10), tmp_path / "twins.lance"
    rows[4]["doc"] = "d3"
    with pytest.raises(JobFailed, match="'d3'"):
        client.submit("echo", rows, sink={"to": str(to), "id": "doc"}).wait(GRACE_S)
    assert not (to / "_versions").exists()


@pytest.mark.parametrize(
    ("sink", "error", "words"),
    [
        ({"to": "/data/x.csv"}, InvalidOutput, "ends in .lance"),
        ({"to": "/data/x.lance", "mode": "upsert"}, InvalidOutput, "needs `id`"),
        ({"to": "/data/x.lance", "mode": "amend"}, InvalidRequest, "expected 'replace'"),
        ({"to": "nowhere:papers"}, InvalidOutput, "no store 'nowhere'"),
        ({"to": "/data/x.lance", "modus": "x"}, InvalidOutput, "modus"),
        ({"to": "{root}/x.lance", "id": "dog"}, InvalidRows, r"'id' names the column 'dog'.*Did you mean 'doc'"),
        ({"to": "{root}/x.lance", "columns": ["text", "no"]}, InvalidRows, "'columns' names the column 'no'"),
    ],
)
def test_a_sink_that_cannot_be_is_refused(
    client: batchmill.Client, tmp_path: Path, sink: dict[str, Any], error: type[BatchmillError], words: str
) -> None:
    with pytest.raises(error, match=words):
        client.submit("echo", rows_of(1), sink={**sink, "to": sink["to"].replace("{root}", str(tmp_path))})


def test_a_sink_beside_an_output_and_stages_of_its_names_are_refused(client: batchmill.Client, tmp_path: Path) -> None:
    to = tmp_path / "x.lance"
    with pytest.raises(InvalidRequest, match="an output or a sink"):
        client.submit("echo", rows_of(1), sink=to, output=tmp_path / "out")
    with pytest.raises(InvalidRequest, match="other names"):
        client.submit(rows=rows_of(1), stages=[Stage("echo", name="store")], sink=to)
    with pytest.raises(UnknownOperator, match="only the service"):
        client.submit("batchmill.publish", rows_of(1), params={"sink": {"to": str(to)}})


def test_a_column_of_vectors_that_no_stage_makes_is_named(client: batchmill.Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="'vectors'"):
        client.submit("echo", rows_of(1), sink={"to": str(tmp_path / "x.lance"), "vector": "vectors"})


PLACES = [{"doc": f"p{n}", "text": f"{n % 10} {n // 10} 1", "year": 2000 + n} for n in range(100)]


@pytest.fixture(scope="module")
def places(client: batchmill.Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index of places on a grid, whose vectors an operator has made."""
    to = tmp_path_factory.mktemp("index") / "places.lance"
    sink = {"to": str(to), "id": "doc", "metric": "l2"}
    client.submit("place", PLACES, sink=sink).wait(GRACE_S)
    return "places"


def test_a_text_is_embedded_as_the_rows_were_and_the_nearest_come_first(client: batchmill.Client, places: str) -> None:
    before = {job.id for job in client.jobs()}
    hits = client.search(places, "4 2 1", k=5)
    assert hits[0].row == {"doc": "p24", "text": "4 2 1", "year": 2024}
    assert hits[0].distance == pytest.approx(0)
    assert {hit.row["doc"] for hit in hits} == {"p24", "p23", "p25", "p14", "p34"}
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
    assert {job.id for job in client.jobs()} == before, "the job of the search stays"


def test_a_vector_a_filter_and_columns(client: batchmill.Client, places: str) -> None:
    hits = client.search(places, vector=[4.0, 2.0, 1.0], k=2, where={"year": {"gte": 2050}}, columns=["doc"])
    assert [hit.row for hit in hits] == [{"doc": "p54"}, {"doc": hits[1].row["doc"]}]
    assert hits[1].row["doc"] in {"p53", "p55", "p64"}
    assert client.search(places, "0 0 0", where={"doc": "nothing"}) == []


def test_a_search_that_the_index_cannot_answer_is_refused_at_once(client: batchmill.Client, places: str) -> None:
    with pytest.raises(InvalidRequest, match="refuses the search"):
        client.search(places, "1 1 1", where={"year": "soon"})
    assert client.search(places, "1 1 1", k=1, columns=["doc", "doc"])[0].row == {"doc": "p11"}


def test_a_direction_is_compared_with_vectors_that_have_one(client: batchmill.Client, tmp_path: Path) -> None:
    client.submit("echo", rows_of(3), sink=tmp_path / "cosine.lance").wait(GRACE_S)
    with pytest.raises(InvalidRequest, match="no direction"):
        client.search("cosine", vector=[0.0, 0.0, 0.0])


def test_what_made_an_index_is_known_and_nothing_else_is_compared_with_it(
    client: batchmill.Client, places: str, tmp_path: Path
) -> None:
    (index,) = [one for one in client.indexes() if one.name == places]
    assert (index.operator, index.params, index.rows, index.dimension) == ("place", {}, 100, 3)
    with pytest.raises(InvalidRequest, match="not by 'other'"):
        client.search(places, "1 1 1", model="other")
    with pytest.raises(InvalidRequest, match="has 2 numbers"):
        client.search(places, vector=[1.0, 2.0])
    with pytest.raises(InvalidRequest, match="no column 'month'"):
        client.search(places, "1 1 1", where={"month": 1})
    sink = {"to": index.sink.to, "id": "doc", "mode": "upsert"}
    with pytest.raises(InvalidOutput, match="was made by place"):
        client.submit("place", PLACES, params={"factor": 2.0}, sink=sink)
    with pytest.raises(InvalidOutput, match="is in "):
        client.submit("place", PLACES, sink={"to": str(tmp_path / "other.lance"), "name": places})
    with pytest.raises(NotFound, match="no index 'nothing'"):
        client.search("nothing", "x")


def test_an_index_whose_vectors_came_with_its_rows_takes_vectors_only(client: batchmill.Client, tmp_path: Path) -> None:
    to = tmp_path / "given.lance"
    client.submit("echo", rows_of(10), sink=to).wait(GRACE_S)
    with pytest.raises(InvalidRequest, match="Give a vector"):
        client.search("given", "a text")
    assert client.search("given", vector=[9.0, 1.0, 2 / 7], k=1)[0].row["doc"] == "d9"
    client.forget_index("given")
    assert "given" not in {one.name for one in client.indexes()}
    assert stored(to) == expected(rows_of(10))
