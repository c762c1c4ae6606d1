"""Requests for one job that arrive at once, under one idempotency key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchmill.errors import Overloaded
from batchmill.fleet import WorkerInfo
from batchmill.jobs.files import OutputSpec
from batchmill.jobs.job import JobRequest
from batchmill.jobs.sink import PUBLISH_OPERATOR, STORE_OPERATOR, SinkSpec
from batchmill.operators.contract import OperatorInfo
from batchmill.settings import CoordinatorSettings
from batchmill_coordinator.admission import acceptance, admission
from batchmill_coordinator.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchmill.ledger.submission import Acceptance


OPERATORS = ("echo", STORE_OPERATOR, PUBLISH_OPERATOR)
PARAMS: dict[str, Any] = {"sink": {}, "vector": {}, "in_steps": {}}


@pytest.fixture
def make_service(valkey_url: str, prefix: str, tmp_path: Path) -> Iterator[Callable[[], Service]]:
    """Makes coordinators without roles, all of one service with a worker."""
    made = []

    def make() -> Service:
        settings = CoordinatorSettings(
            redis_url=valkey_url,
            redis_prefix=prefix,
            blob_root=str(tmp_path / "blobs"),
            roots=(str(tmp_path / "out"),),
            tokens=("secret",),
        )
        made.append(Service(settings))
        made[-1]._inspectors.start()
        return made[-1]

    (tmp_path / "out").mkdir()
    worker: dict[str, Any] = {
        "slot": 0,
        "shards_at_once": 1,
        "pool": "default",
        "device": "cpu",
        "pid": 1,
        "started_at": 0.0,
    }
    make().ledger.fleet.announce(
        WorkerInfo(name="cpu0@here", operators=list(OPERATORS), **worker),
        [OperatorInfo(name=name, params_schema={"properties": PARAMS}) for name in OPERATORS],
        60.0,
        changed=True,
    )
    yield make
    for service in made:
        service._inspectors.stop()
        service.ledger.close()


@pytest.fixture
def request_(tmp_path: Path) -> JobRequest:
    output = OutputSpec(path=str(tmp_path / "out" / "results"), format="jsonl")
    return JobRequest(operator="echo", rows=[{"id": 1}], output=output, idempotency_key="once")


def test_a_repetition_is_to_be_sent_again_while_the_job_is_being_accepted(
    make_service: Callable[[], Service], request_: JobRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, refused = make_service(), []

    def accept(*args: Any) -> Acceptance:
        with pytest.raises(Overloaded) as error:
            service.submit(request_, "default")
        refused.append(error.value.message)
        return acceptance.accept(*args)

    monkeypatch.setattr(admission, "accept", accept)
    accepted = service.submit(request_, "default")
    assert refused == ["another request with this idempotency key is being accepted."]
    again = service.submit(request_, "default")
    assert (accepted.is_new, again.is_new, again.job_id) == (True, False, accepted.job_id)


def test_a_repetition_that_finds_the_output_taken_finds_the_job_that_another_coordinator_accepted(
    make_service: Callable[[], Service], request_: JobRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / "in.jsonl").write_text('{"id": 1}\n')
    over_file = JobRequest.model_validate(
        request_.model_dump() | {"rows": None, "source": {"path": str(tmp_path / "out" / "in.jsonl")}}
    )
    one, other, accepted = make_service(), make_service(), []
    take_output = other.admission._take_output

    def taken(*args: Any) -> Any:
        accepted.append(one.submit(over_file, "default").job_id)
        return take_output(*args)

    monkeypatch.setattr(other.admission, "_take_output", taken)
    again = other.submit(over_file, "default")
    assert (again.is_new, [again.job_id]) == (False, accepted)


def test_a_repetition_that_finds_the_store_taken_finds_the_job_that_has_taken_it(
    make_service: Callable[[], Service], tmp_path: Path
) -> None:
    sink = SinkSpec(to=str(tmp_path / "out" / "texts.lance"))
    rows = [{"id": 1, "embedding": [0.5, 0.5]}]
    request = JobRequest(operator="echo", rows=rows, sink=sink, idempotency_key="once")
    service = make_service()
    accepted = service.submit(request, "default")
    again = service.submit(request, "default")
    assert (again.is_new, again.job_id) == (False, accepted.job_id)
