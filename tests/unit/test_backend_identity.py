"""What computes an operator's results is part of its batch profile and of the row cache's key, and is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from batchmill.cli.fleet.workers import _batch
from batchmill.fleet import BatchChoice
from batchmill.jobs.job import StageSpec
from batchmill.operators.contract import BackendInfo, OperatorDefinition
from batchmill_worker.batching.profile import Profile
from batchmill_worker.engine.controllers import ControllerCache
from batchmill_worker.models.ready_operator import ReadyOperator

if TYPE_CHECKING:
    from batchmill.operators.contract import Operator

TORCH = BackendInfo(name="torch", precision="float32")
OPENVINO = BackendInfo(name="openvino", precision="float32", worst_cosine=0.9999991)


class NoParams(BaseModel):
    pass


class Probe:
    def __init__(self, backend: BackendInfo) -> None:
        self._backend = backend

    def infer(self, batch: Any) -> Any:
        return batch

    def fingerprint(self) -> str:
        return "files"

    def computes_with(self) -> BackendInfo:
        return self._backend


class Plain:
    def infer(self, batch: Any) -> Any:
        return batch


class Profiles(dict[str, str]):
    """Profiles in memory."""

    def read(self, name: str) -> bytes | None:
        return self[name].encode() if name in self else None

    def write(self, name: str, profile: str) -> None:
        self[name] = profile


DEFINITION = OperatorDefinition("probe", make=cast("Any", Probe), params=NoParams)
SPEC = StageSpec(operator="probe")


def ready(operator: Any) -> ReadyOperator:
    return ReadyOperator(DEFINITION, cast("Operator", operator))


def test_timings_of_one_backend_are_not_those_of_another() -> None:
    profiles = Profiles()
    learning = ControllerCache(profiles, "cpu")
    for _ in range(5):
        learning.batching(DEFINITION, SPEC, OPENVINO).controller.ran(10.0, 0.1)
    learning.save(at_once=True)
    assert [name.endswith(":openvino float32") for name in profiles] == [True]
    other = ControllerCache(profiles, "cpu")
    assert other.batching(DEFINITION, SPEC, TORCH).controller.profile() == Profile()
    measured_again = OPENVINO.model_copy(update={"worst_cosine": 0.99995})
    assert len(other.batching(DEFINITION, SPEC, measured_again).controller.profile().timings) == 2


def test_workers_announce_what_computes_and_its_error() -> None:
    controllers = ControllerCache(Profiles(), "cpu")
    controllers.batching(DEFINITION, SPEC, OPENVINO).controller.ran(10.0, 0.1, rows=3)
    (choice,) = controllers.choices()
    assert (choice.backend, choice.precision, choice.worst_cosine) == ("openvino", "float32", 0.9999991)
    assert _batch(choice) == "probe 3 rows, 0 units (starting), openvino float32, worst cosine 0.999999"


def test_an_operator_that_does_not_report_it_is_shown_without() -> None:
    controllers = ControllerCache(Profiles(), "cpu")
    controllers.batching(DEFINITION, SPEC, ready(Plain()).backend()).controller.ran(10.0, 0.1)
    (choice,) = controllers.choices()
    assert choice == BatchChoice(operator="probe", units=0, rows=1, reason="starting")
    assert ready(Plain()).fingerprint() == ""


def test_the_row_cache_distinguishes_library_and_number_format_but_not_the_measured_error() -> None:
    keys = [ready(Probe(each)).fingerprint() for each in (TORCH, OPENVINO)]
    assert keys == ["files torch float32", "files openvino float32"]
    measured_again = OPENVINO.model_copy(update={"worst_cosine": 0.99995})
    assert ready(Probe(measured_again)).fingerprint() == keys[1]
