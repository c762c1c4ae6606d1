from __future__ import annotations

import inspect
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from IPython.core.oinspect import Inspector

from batchmill import AsyncClient, Client, JobOptions, Stage
from batchmill.errors import (
    BatchmillError,
    InvalidOutput,
    InvalidParams,
    InvalidRequest,
    InvalidRows,
    InvalidSource,
    StorageError,
    UnknownOperator,
)
from batchmill.jobs.files import FileSource
from batchmill.jobs.job import JobForm
from support.fault_proxy import Fault
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.live_service import LiveService

SMALL_PARTS = {"max_part_bytes": 1_000_000}
NEPAL = timezone(timedelta(hours=5, minutes=45))
BIG = pa.table({"id": pa.array(range(300_000)), "text": [f"row {i} with some text to carry" for i in range(300_000)]})


def test_few_rows_ride_in_one_request_and_come_back_in_one_more(client: Client, service: LiveService) -> None:
    job = client.submit("echo", rows=[{"id": 1, "text": "x"}])
    service.ended(job.id)  # before that, a page may come without the end
    table = job.to_table()
    assert table.to_pylist() == [{"id": 1, "text": "x"}]
    assert [method for method, _ in service.requests] == ["POST", "GET"]


def test_the_whole_order_arrives(client: Client, service: LiveService, tmp_path: Path) -> None:
    service.holds_jobs = True
    job = client.submit(
        "anything",
        [{"id": 1}],
        params={"model": "m", "none": None, "list": [1, {"a": 2}]},
        output={"path": f"{tmp_path}/out", "format": "jsonl"},
        carry=["id"],
        name="mine",
        pool="gpu",
        priority=7,
        idempotency_key="once",
    )
    order = service.last_order()
    assert order.output is not None
    assert order.params == {"model": "m", "none": None, "list": [1, {"a": 2}]}
    assert (order.output.path, order.output.format) == (f"{tmp_path}/out", "jsonl")
    assert (order.carry, order.name, order.pool, order.priority) == (["id"], "mine", "gpu", 7)
    assert order.idempotency_key == "once"
    assert job.latest is not None
    assert job.latest.name == "mine"


@pytest.mark.parametrize(
    "given",
    [
        lambda: datetime.now(UTC) + timedelta(hours=1),
        lambda: datetime.now(NEPAL) + timedelta(hours=1),
    ],
    ids=["a moment", "a moment elsewhere"],
)
def test_a_deadline_may_be_a_moment(client: Client, service: LiveService, given: Callable[[], datetime]) -> None:
    before = time.time()
    job = client.submit("echo", [{"id": 1}], deadline=given())
    deadline_at = service.last_order().deadline_at
    assert deadline_at is not None
    assert abs(deadline_at - before - 3600) < 60
    assert job.latest is not None
    assert job.latest.deadline_at == deadline_at


@pytest.mark.parametrize("given", [3600, 3600.5, timedelta(hours=1), "1h", "0.5h 30m"])
def test_a_deadline_may_be_a_span_from_when_the_job_is_accepted(
    client: Client, service: LiveService, given: float | timedelta | str
) -> None:
    job = client.submit("echo", [{"id": 1}], deadline=given)
    order = service.last_order()
    assert order.deadline_at is None
    assert order.deadline is not None
    assert order.deadline == pytest.approx(3600, abs=1)
    assert job.latest is not None
    assert job.latest.deadline_at == pytest.approx(job.latest.created_at + order.deadline, abs=5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (datetime(2999, 1, 1), "no time zone"),  # noqa: DTZ001  # that is the mistake
        (datetime(2001, 1, 1, tzinfo=UTC), "not in the future"),
        (timedelta(seconds=-1), "greater than 0"),
        (0, "greater than 0"),
        ("soon", "or text such as 2h"),
        (True, "expected a datetime with a time zone"),
        (float("nan"), "expected a datetime with a time zone"),
        (1e12, "deadline"),
    ],
)
def test_a_deadline_that_is_none_is_told_before_anything_is_sent(
    client: Client, service: LiveService, given: Any, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        client.submit("echo", [{"id": 1}], deadline=given)
    assert service.requests == []


def test_a_value_of_fuse_that_is_none_is_told_in_words(client: Client, service: LiveService) -> None:
    with pytest.raises(InvalidRequest, match=r"^fuse: expected true, false or 'auto', got .maybe.\.$"):
        client.submit("echo", [{"id": 1}], fuse="maybe")  # type: ignore[arg-type]
    assert service.requests == []


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: t.to_reader(), lambda t: iter(t.to_batches(50_000))])
def test_many_rows_are_uploaded_in_pieces_and_come_back_in_order(
    client: Client, service: LiveService, wrap: Callable[[pa.Table], Any]
) -> None:
    job = client.submit("echo", rows=wrap(BIG))
    assert job.to_table().equals(BIG)
    assert service.asked("POST") == ["/v1/uploads", "/v1/jobs"]
    assert len(service.asked("PUT")) > 1


def test_dicts_from_an_iterator_are_uploaded_and_come_back_in_order(client: Client) -> None:
    rows = ({"id": i, "text": "x" * 100} for i in range(100_000))
    job = client.submit("echo", rows=rows)
    assert job.to_table()["id"].to_pylist() == list(range(100_000))


def test_several_pieces_are_on_their_way_at_once_but_few(client: Client, service: LiveService) -> None:
    another_came = threading.Event()
    service.faults.append(Fault("PUT", "/parts/0", waits_for=another_came))
    submitting = threading.Thread(target=client.submit, args=["echo"], kwargs={"rows": pa.concat_tables([BIG] * 8)})
    submitting.start()
    until(lambda: service.proxy.in_flight["PUT"] >= 2, "another part beside the first")
    another_came.set()
    submitting.join(GRACE_S)
    assert 2 <= service.proxy.most_in_flight["PUT"] <= 3


def test_an_unknown_operator_is_told_before_the_rows_are_sent(client: Client, service: LiveService) -> None:
    with pytest.raises(UnknownOperator, match="Did you mean 'embed'"):
        client.submit("embedd", rows=BIG)
    assert service.asked("PUT") == []


def test_an_iterator_that_fails_half_way_submits_nothing(client: Client, service: LiveService) -> None:
    def rows() -> Iterator[dict[str, object]]:
        yield from ({"id": i, "text": "x" * 200} for i in range(100_000))
        raise LookupError("the database went away")

    with pytest.raises(LookupError, match="went away"):
        client.submit("echo", rows=rows())
    assert service.job_ids() == []


def test_rows_that_fit_no_table_submit_nothing(client: Client, service: LiveService) -> None:
    with pytest.raises(InvalidRows, match="row 1, column 'a': expected int64"):
        client.submit("echo", rows=[{"a": 1}, {"a": "x"}])
    assert service.requests == []


def test_an_iterator_is_read_in_the_thread_of_the_caller(client: Client) -> None:
    seen = set()

    def rows() -> Iterator[dict[str, object]]:
        for i in range(10):
            seen.add(threading.current_thread())
            yield {"i": i}

    client.submit("echo", rows=rows())
    assert seen == {threading.current_thread()}


def test_no_rows_are_a_job_with_an_empty_result(client: Client) -> None:
    table = client.submit("echo", rows=[]).wait().to_table()
    assert (table.num_rows, table.num_columns) == (0, 0)


def test_a_row_too_large_for_the_service_is_named(
    client: Client, service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.service, "settings", service.service.settings.model_copy(update=SMALL_PARTS))
    rows = [{"b": b"x" * 70_000}] * 2 + [{"b": b"x" * 9_000_000}]
    with pytest.raises(InvalidRows, match="row 2 has 9,"):
        client.submit("echo", rows=iter(rows))
    assert service.job_ids() == []


@pytest.mark.parametrize(("rows", "source", "word"), [(None, None, "neither"), ([{"a": 1}], "/data", "both")])
def test_rows_and_source_together_or_none_of_them_are_refused_before_anything_is_sent(
    client: Client, service: LiveService, rows: list[dict[str, int]] | None, source: str | None, word: str
) -> None:
    with pytest.raises(InvalidRequest, match=word):
        client.submit("echo", rows, source=source)
    assert service.requests == []


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("docs/*.jsonl", "{here}/docs/*.jsonl"),
        (Path("docs"), "{here}/docs"),
        ("/dev/null", "/dev/null"),
        ("s3://bucket/docs", "s3://bucket/docs"),
        (["a.csv", Path("/b.csv")], ["{here}/a.csv", "/b.csv"]),
        ({"path": "a.txt", "format": "text"}, "{here}/a.txt"),
    ],
)
def test_relative_paths_of_a_source_are_made_absolute(
    client: Client,
    service: LiveService,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    given: Any,
    path: str | list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with suppress(InvalidSource, StorageError):  # there is nothing in most of these places
        client.submit("echo", source=given)
    filled = [one.format(here=tmp_path) for one in path] if isinstance(path, list) else path.format(here=tmp_path)
    source = service.last_order().source
    assert isinstance(source, FileSource)
    assert source.path == filled


def test_a_path_below_the_home_folder_is_expanded(
    client: Client, service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    with suppress(InvalidSource):  # there are none
        client.submit("echo", source="~/docs", output="~/out")
    order = service.last_order()
    assert isinstance(order.source, FileSource)
    assert order.output is not None
    assert (order.source.path, order.output.path, order.output.format) == ("/home/me/docs", "/home/me/out", "parquet")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"source": ""}, InvalidSource, "expected a path or a URI"),
        ({"source": 7}, InvalidSource, "expected a path or a URI"),
        ({"source": {"path": "/a", "fromat": "csv"}}, InvalidSource, "fromat"),
        ({"source": {"path": "/a", "format": "xls"}}, InvalidSource, "xls"),
        ({"output": ""}, InvalidOutput, "expected a path or a URI"),
        ({"output": {"path": "/out", "format": "csv"}}, InvalidOutput, "csv"),
        ({"params": {"when": object()}}, InvalidParams, "JSON"),
        ({"params": {"x": float("nan")}}, InvalidParams, "JSON"),
        ({"params": ["x"]}, InvalidRequest, "params"),
        ({"priority": 1000}, InvalidRequest, "priority"),
        ({"carry": "id"}, InvalidRequest, "carry"),
        ({"stages": ["echo"]}, InvalidRequest, r"Write Stage\('echo'\)"),
        ({"stages": []}, InvalidRequest, "stages: expected at least one Stage, got an empty list"),
        ({"stages": [Stage("echo")]}, InvalidRequest, "^expected either an operator or stages\\.$"),
        ({"pool": "no such pool!"}, InvalidRequest, "pool"),
        ({"name": ""}, InvalidRequest, "name"),
        ({"idempotency_key": "k" * 200}, InvalidRequest, "idempotency_key"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_sent(
    client: Client, service: LiveService, options: dict[str, Any], error: type[BatchmillError], words: str
) -> None:
    with pytest.raises(error, match=words):
        client.submit("echo", **({"source": "/data"} | options))
    assert service.requests == []


def test_a_lost_answer_does_not_submit_the_job_twice(client: Client, service: LiveService) -> None:
    client.workers()
    service.faults.append(Fault("POST", "/v1/jobs", lose_answer=True))
    job = client.submit("echo", rows=[{"a": 1}])
    assert service.job_ids() == [job.id]
    assert service.asked("POST") == ["/v1/jobs", "/v1/jobs"]


def test_a_broken_upload_is_sent_again(client: Client, service: LiveService) -> None:
    service.faults += [Fault("PUT", "/parts/0", drop=True), Fault("PUT", "/parts/1", lose_answer=True)]
    assert client.submit("echo", rows=BIG).to_table().equals(BIG)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_help_and_notebooks_list_every_option_with_its_default_and_its_description(
    kind: type[Client | AsyncClient],
) -> None:
    signature = inspect.signature(kind.submit)
    options = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert {option.name for option in options} == set(JobOptions.__annotations__)
    assert {option.name: option.default for option in options if option.default is not None} == {
        "on_null": "dead",
        "priority": 0,
        "cache": False,
        "fuse": "auto",
        "any_version": False,
    }
    documented = str(kind.submit.__doc__)
    for name in signature.parameters.keys() - {"self"}:
        assert f"\n    {name}: " in documented
    shown = Inspector(theme_name="nocolor").info(kind.submit)
    assert "idempotency_key: 'str | None' = None" in str(shown["definition"])
    assert "    deadline: " in str(shown["docstring"])


def test_every_option_of_a_job_has_a_place_in_its_spec() -> None:
    assert JobOptions.__annotations__.keys() - {"idempotency_key"} == JobForm.model_fields.keys() - {
        "operator",
        "deadline_at",
    }


def test_an_unknown_option_is_refused_with_the_nearest_name_before_anything_is_sent(
    client: Client, service: LiveService
) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'prio'.*'priority'"):
        client.submit("echo", [{"id": 1}], prio=3)  # type: ignore[call-arg]  # that is the mistake
    assert service.requests == []
