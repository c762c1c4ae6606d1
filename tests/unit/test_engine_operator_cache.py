"""Operators are set up once, kept for a while, and torn down."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import BaseModel, ConfigDict

from batchmill.errors import InvalidParams, OperatorFailed
from batchmill.operators.contract import OperatorDefinition, OperatorInfo
from batchmill.operators.model_key import model_key
from batchmill.storage.locations import Locations
from batchmill_worker.models import setup_context
from batchmill_worker.models.model_memory import MIB
from batchmill_worker.models.operator_cache import LoadedModels, OperatorCache, OperatorKey
from batchmill_worker.models.setup_context import SetupContext
from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 30


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int = 0


class NoParams(BaseModel):
    pass


class Recorder:
    """Makes operators that write down what is done to them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.failures: list[Exception] = []
        self.nbytes = 1
        self.gate = threading.Event()
        self.gate.set()
        self.definition = OperatorDefinition("probe", make=self._make, params=Params)

    def _make(self, n: int) -> Any:
        recorder = self

        class Operator:
            def setup(self, device: str) -> None:
                recorder.log.append(f"setup {n} on {device}")
                assert recorder.gate.wait(PATIENCE_S)
                if recorder.failures:
                    raise recorder.failures.pop(0)

            def infer(self, batch: Any) -> Any:
                return batch, n

            def memory_bytes(self) -> int:
                return recorder.nbytes * MIB

            def teardown(self) -> None:
                recorder.log.append(f"teardown {n}")

        return Operator()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def cache() -> OperatorCache:
    return OperatorCache("cpu", SetupContext())


def use(cache: OperatorCache, recorder: Recorder, n: int) -> None:
    with cache.borrow(recorder.definition, {"n": n}) as operator:
        assert operator.infer("batch") == ("batch", n)


def key(n: int) -> OperatorKey:
    return OperatorKey("probe", "1", f'{{"n": {n}}}')


def test_an_operator_is_set_up_once_for_parameters_that_mean_the_same(cache: OperatorCache, recorder: Recorder) -> None:
    for params in ({}, {"n": 0}, {"n": "0"}):
        with cache.borrow(recorder.definition, params):
            pass
    assert recorder.log == ["setup 0 on cpu"]
    assert cache.loaded() == [key(0)]


def test_shards_that_ask_at_once_share_one_setup(cache: OperatorCache, recorder: Recorder) -> None:
    recorder.gate.clear()
    together = threading.Barrier(5)

    def borrow() -> int:
        together.wait(PATIENCE_S)
        with cache.borrow(recorder.definition, {}) as operator:
            return id(operator)

    with ThreadPoolExecutor(4) as threads:
        borrowed = [threads.submit(borrow) for _ in range(4)]
        together.wait(PATIENCE_S)
        assert cache.loaded() == []
        recorder.gate.set()
        assert len({future.result(PATIENCE_S) for future in borrowed}) == 1
    assert recorder.log == ["setup 0 on cpu"]


def test_the_one_unused_for_longest_goes_when_there_are_too_many(recorder: Recorder) -> None:
    cache = OperatorCache("cpu", SetupContext(), max_kept=2)
    for n in (1, 2, 1, 3):
        use(cache, recorder, n)
    assert recorder.log == ["setup 1 on cpu", "setup 2 on cpu", "teardown 2", "setup 3 on cpu"]
    assert cache.loaded() == [key(1), key(3)]


def test_one_that_fits_beside_the_others_lets_them_be(recorder: Recorder) -> None:
    recorder.nbytes = 40
    cache = OperatorCache("cpu", SetupContext(), budget=100 * MIB)
    for n in (1, 2):
        use(cache, recorder, n)
    assert cache.loaded() == [key(1), key(2)]
    assert not cache.models().has_room
    use(cache, recorder, 1)
    use(cache, recorder, 3)
    assert recorder.log[2:] == ["teardown 2", "setup 3 on cpu"]
    assert cache.loaded() == [key(1), key(3)]


def test_one_larger_than_the_budget_is_kept_alone(recorder: Recorder) -> None:
    recorder.nbytes = 500
    cache = OperatorCache("cpu", SetupContext(), budget=100 * MIB)
    use(cache, recorder, 1)
    assert cache.loaded() == [key(1)]
    use(cache, recorder, 2)
    assert recorder.log == ["setup 1 on cpu", "teardown 1", "setup 2 on cpu"]


def test_a_new_one_waits_for_those_in_its_way_which_are_announced_no_more(recorder: Recorder) -> None:
    told: list[LoadedModels] = []
    recorder.nbytes = 60
    cache = OperatorCache("cpu", SetupContext(), budget=100 * MIB, on_change=told.append)
    with ThreadPoolExecutor(1) as thread:
        with cache.borrow(recorder.definition, {"n": 1}):
            (first,) = cache.models().ready
            other = thread.submit(use, cache, recorder, 2)
            until(lambda: not told[-1].ready and len(told[-1].loading) == 1, "the one in use is on its way out")
            assert recorder.log == ["setup 1 on cpu"]
            use(cache, recorder, 1)
            assert not cache.models().has_room
        other.result(PATIENCE_S)
    assert recorder.log == ["setup 1 on cpu", "teardown 1", "setup 2 on cpu"]
    assert first not in told[-1].ready
    assert len(told[-1].ready) == 1


def test_one_that_does_not_fit_after_all_is_tried_again_without_the_idle_ones(recorder: Recorder) -> None:
    cache = OperatorCache("cpu", SetupContext())
    use(cache, recorder, 1)
    recorder.failures = [MemoryError("no more")]
    use(cache, recorder, 2)
    assert recorder.log == ["setup 1 on cpu", "setup 2 on cpu", "teardown 1", "setup 2 on cpu"]


def test_one_that_does_not_fit_after_all_waits_for_those_in_use(recorder: Recorder) -> None:
    cache = OperatorCache("cpu", SetupContext())
    use(cache, recorder, 0)
    with ThreadPoolExecutor(1) as thread:
        with cache.borrow(recorder.definition, {"n": 1}):
            recorder.failures = [MemoryError("no more"), MemoryError("still no more")]
            other = thread.submit(use, cache, recorder, 2)
            until(lambda: recorder.log.count("setup 2 on cpu") == 2, "it is tried again without the idle one")
            assert not other.done()
        other.result(PATIENCE_S)
    assert recorder.log[2:] == ["setup 2 on cpu", "teardown 0", "setup 2 on cpu", "teardown 1", "setup 2 on cpu"]


def test_one_that_does_not_fit_even_alone_fails_with_its_error(cache: OperatorCache, recorder: Recorder) -> None:
    recorder.failures = [MemoryError("no more")]
    with pytest.raises(OperatorFailed, match="MemoryError: no more"):
        use(cache, recorder, 1)
    assert cache.models() == LoadedModels((), (), has_room=True, load_s=0.0)


def test_what_is_announced_is_what_the_dispatcher_calls_it(cache: OperatorCache, recorder: Recorder) -> None:
    info = OperatorInfo.model_validate_json(recorder.definition.announcement().model_dump_json())
    for params in ({}, {"n": 0}, {"n": "0"}, {"n": 1}):
        with cache.borrow(recorder.definition, params):
            assert cache.models().ready[-1] == model_key(info, params)
    assert model_key(info, {}) == model_key(info, {"n": 0}) != model_key(info, {"n": 1})
    assert len(cache.models().ready) == 3


def test_an_operator_in_use_is_torn_down_only_when_it_is_given_back(recorder: Recorder) -> None:
    cache = OperatorCache("cpu", SetupContext(), max_kept=2)
    with cache.borrow(recorder.definition, {"n": 1}):
        with cache.borrow(recorder.definition, {"n": 2}):
            use(cache, recorder, 3)
            assert cache.loaded() == [key(1), key(2), key(3)]
        assert recorder.log[-1] == "teardown 2"
        cache.close()
        assert recorder.log[-1] == "teardown 3"
    assert cache.loaded() == [key(1)]
    cache.close()
    assert recorder.log[-1] == "teardown 1"
    assert cache.loaded() == []


def test_a_setup_that_fails_names_operator_and_device_and_is_tried_again(
    cache: OperatorCache, recorder: Recorder
) -> None:
    recorder.failures = [OSError("no such file: weights.bin")]
    with pytest.raises(
        OperatorFailed, match=r"'probe' could not be set up on cpu: OSError: no such file: weights\.bin"
    ) as caught:
        use(cache, recorder, 1)
    assert "recorder.failures.pop" in caught.value.details["traceback"]
    assert cache.loaded() == []
    use(cache, recorder, 1)
    assert recorder.log == ["setup 1 on cpu"] * 2


def test_errors_that_setup_raises_on_purpose_stay_as_they_are(cache: OperatorCache, recorder: Recorder) -> None:
    recorder.failures = [InvalidParams("no such model")]
    with pytest.raises(InvalidParams, match="no such model"):
        use(cache, recorder, 1)


def test_parameters_that_do_not_fit_set_nothing_up(cache: OperatorCache, recorder: Recorder) -> None:
    with pytest.raises(InvalidParams, match="parameter 'n'"), cache.borrow(recorder.definition, {"n": "x"}):
        pass
    assert recorder.log == []


def test_a_teardown_that_fails_is_logged_and_harms_nobody(
    cache: OperatorCache, caplog: pytest.LogCaptureFixture
) -> None:
    class Clumsy:
        def infer(self, batch: Any) -> Any:
            return batch

        def teardown(self) -> None:
            raise ValueError("cannot let go")

    with cache.borrow(OperatorDefinition("clumsy", make=cast("Any", Clumsy), params=NoParams), {}):
        pass
    cache.close()
    assert "operator 'clumsy' failed in teardown" in caplog.text
    assert "cannot let go" in caplog.text


def test_setup_sees_the_workers_context_and_nobody_else_does(tmp_path: Path) -> None:
    seen = []

    class Looks:
        def setup(self, device: str) -> None:  # noqa: ARG002  # the contract's
            seen.append(setup_context.current().locations)

        def infer(self, batch: Any) -> Any:
            return batch

    locations = Locations([str(tmp_path)])
    cache = OperatorCache("cpu", SetupContext(locations))
    with cache.borrow(OperatorDefinition("looks", make=cast("Any", Looks), params=NoParams), {}):
        assert setup_context.current().locations is not locations
    assert seen == [locations]
