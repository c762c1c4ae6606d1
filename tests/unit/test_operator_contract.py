"""Registering operators: what is accepted, what is refused, and what the parameter model makes of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import pytest
from pydantic import Field

from batchmill.errors import InvalidOperator, InvalidParams
from batchmill.operators.registration import REGISTRY, OperatorRegistry, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from batchmill.operators.contract import OperatorDefinition


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> OperatorRegistry:
    fresh = OperatorRegistry()
    monkeypatch.setattr(sys.modules[operator.__module__], "REGISTRY", fresh)
    return fresh


def registered(registry: OperatorRegistry, name: str) -> OperatorDefinition:
    found = registry.get(name)
    assert found is not None
    return found


def test_keyword_parameters_become_a_typed_model(registry: OperatorRegistry) -> None:
    @operator("score")
    def score(
        rows: list[dict[str, Any]], *, mode: Literal["fast", "exact"], limit: Annotated[int, Field(ge=1)] = 5
    ) -> list[dict[str, Any]]:
        """Score rows.

        In detail.
        """
        return rows[:limit] if mode == "fast" else rows

    info = registered(registry, "score").announcement()
    assert info.summary == "Score rows."
    assert info.params_schema["required"] == ["mode"]
    assert info.params_schema["properties"]["mode"]["enum"] == ["fast", "exact"]
    assert info.params_schema["properties"]["limit"]["minimum"] == 1
    assert info.params_schema["additionalProperties"] is False


def test_types_that_only_checkers_see_may_stand_at_the_batch_and_the_result(registry: OperatorRegistry) -> None:
    @operator("typed", batch_format="arrow")
    def typed(table: pa.Table, *, size: int = 1) -> pa.Table:
        return table.slice(0, size)

    assert registered(registry, "typed").canonical({}) == '{"size": 1}'


def test_a_parameter_of_a_type_that_only_checkers_see_is_refused_with_advice() -> None:
    def code(rows: Any, *, then: Callable[[], None] | None = None) -> Any:
        return rows, then

    with pytest.raises(InvalidOperator, match=r"Callable.*not under `if TYPE_CHECKING`"):
        operator("late")(code)


def test_a_class_takes_its_parameters_from_its_constructor(registry: OperatorRegistry) -> None:
    @operator("times")
    class Times:
        def __init__(self, factor: float = 2.0) -> None:
            self.factor = factor

        def infer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [{"x": row["x"] * self.factor} for row in rows]

    assert registered(registry, "times").build({"factor": "3"}).infer([{"x": 2}]) == [{"x": 6.0}]


def test_a_class_without_a_constructor_takes_no_parameters(registry: OperatorRegistry) -> None:
    @operator("plain")
    class Plain:
        def infer(self, rows: Any) -> Any:
            return rows

    assert registered(registry, "plain").canonical({}) == "{}"
    with pytest.raises(InvalidParams, match=r"'plain' has no parameter 'x'\. It takes no parameters"):
        registered(registry, "plain").build({"x": 1})


def test_a_misspelt_parameter_is_refused_with_the_nearest_name(registry: OperatorRegistry) -> None:
    @operator("score")
    def score(rows: Any, *, threshold: float = 0.5) -> Any:
        return rows, threshold

    with pytest.raises(InvalidParams, match=r"no parameter 'treshold'.*Did you mean 'threshold'"):
        registered(registry, "score").build({"treshold": 1})


def test_a_parameter_of_the_wrong_type_is_named_with_its_value(registry: OperatorRegistry) -> None:
    @operator("score")
    def score(rows: Any, *, threshold: float) -> Any:
        return rows, threshold

    with pytest.raises(InvalidParams, match=r"'threshold': Input should be a valid number.*It was 'high'"):
        registered(registry, "score").build({"threshold": "high"})
    with pytest.raises(InvalidParams, match="'threshold': Field required"):
        registered(registry, "score").build({})


def test_parameters_that_mean_the_same_have_the_same_canonical_form(registry: OperatorRegistry) -> None:
    @operator("score")
    def score(rows: Any, *, zeta: int = 1, alpha: list[str] | None = None) -> Any:
        return rows, zeta, alpha

    score_definition = registered(registry, "score")
    assert score_definition.canonical({"zeta": 1}) == score_definition.canonical({"alpha": None})
    assert score_definition.canonical({"zeta": 2}) != score_definition.canonical({})


def test_code_that_fits_no_contract_is_refused_with_the_reason() -> None:
    class NoInfer:
        pass

    async def later(rows: Any) -> Any:
        return rows

    def nothing() -> None: ...

    def keywords(rows: Any, **options: Any) -> Any:
        return rows, options

    def positions(rows: Any, *options: Any) -> Any:
        return rows, options

    def by_place(rows: Any, threshold: float, /) -> Any:
        return rows, threshold

    def odd(rows: Any, *, thing: Opaque) -> Any:
        return rows, thing

    def private(rows: Any, *, _x: int = 1) -> Any:
        return rows, _x

    def hiding(rows: Any, *, model_dump: bool) -> Any:
        return rows, model_dump

    refused = {
        "no method infer": NoInfer,
        "later is async": later,
        "takes no batch": nothing,
        r"\*\*options has no names": keywords,
        r"parameter \*options": positions,
        "'threshold' cannot be given by name": by_place,
        "parameters cannot be checked": odd,
        "'_x' cannot be the name of a parameter": private,
        "'model_dump' cannot be the name of a parameter": hiding,
    }
    for reason, code in refused.items():
        with pytest.raises(InvalidOperator, match=reason):
            operator("bad")(cast("Callable[..., Any]", code))


def test_hooks_that_a_worker_could_not_call_are_refused_with_how_to_write_them() -> None:
    def hooks(**of_class: Any) -> type:
        return type("Hooked", (), {"infer": lambda self, batch: (self, batch), **of_class})

    async def later(self: Any, device: str) -> None: ...

    refused = {
        r"Hooked\.setup\(self\) cannot be called with device: .* Write it as `def setup\(self, device\)`": hooks(
            setup=lambda self: self
        ),
        r"Hooked\.infer\(self\) cannot be called with batch": hooks(infer=lambda self: self),
        r"Hooked\.prepare\(self, batch, size\)": hooks(prepare=lambda self, batch, size: (self, batch, size)),
        r"Hooked\.finish\(outputs\) .*`def finish\(self, outputs\)`": hooks(finish=lambda outputs: outputs),
        r"Hooked\.cost\(self\)": hooks(cost=lambda self: self),
        r"Hooked\.costs\(self, \*, batch\)": hooks(costs=lambda self, *, batch: (self, batch)),
        r"Hooked\.row_key\(\)": hooks(row_key=staticmethod(lambda: "")),
        r"Hooked\.fingerprint\(self, model\) cannot be called with no arguments": hooks(
            fingerprint=lambda self, model: (self, model)
        ),
        r"Hooked\.teardown is None, expected a method": hooks(teardown=None),
        r"Hooked\.setup is async": hooks(setup=later),
    }
    for reason, code in refused.items():
        with pytest.raises(InvalidOperator, match=reason):
            operator("bad")(cast("Callable[..., Any]", code))


def test_hooks_may_take_more_than_a_worker_gives(registry: OperatorRegistry) -> None:
    @operator("generous")
    class Generous:
        def setup(self, device: str, *, dtype: str = "float32") -> None: ...

        @staticmethod
        def prepare(batch: Any) -> Any:
            return batch

        @classmethod
        def finish(cls, outputs: Any) -> Any:
            return outputs

        def infer(self, *batches: Any) -> Any:
            return batches[0]

        def teardown(self, **_: Any) -> None: ...

    assert registry.get("generous") is not None


class Opaque:
    """A type that pydantic knows nothing of."""


def test_parameters_may_have_everyday_names(registry: OperatorRegistry) -> None:
    @operator("everyday")
    def everyday(rows: Any, *, model: str, schema: str = "a", json: bool = False, copy: int = 1) -> Any:
        return [{"all": (model, schema, json, copy)} for _ in rows]

    built = registered(registry, "everyday").build({"model": "m", "json": True})
    assert built.infer([{}]) == [{"all": ("m", "a", True, 1)}]


def test_options_that_fit_no_contract_are_refused_with_the_reason() -> None:
    def code(rows: Any, *, column: str = "text") -> Any:
        return rows, column

    refused: dict[str, dict[str, Any]] = {
        r"'{colum}', but there is no parameter 'colum'.*Did you mean 'column'": {"columns": ["{colum}"]},
        "columns is the text 'text', expected a list": {"columns": "text"},
        "makes is the text 'score', expected a list": {"makes": "score"},
        r"consumes has '{colum}', but there is no parameter 'colum'": {"consumes": ["{colum}"]},
        "batch_size is 0, expected 1 or more": {"batch_size": 0},
        "batch_format is 'pandas'": {"batch_format": "pandas"},
    }
    for reason, options in refused.items():
        with pytest.raises(InvalidOperator, match=reason):
            operator("bad", **options)(code)
    for name in ("", "9lives", "a b", "x" * 65, "a..b"):
        with pytest.raises(InvalidOperator, match="is no operator name"):
            operator(name)(code)


def test_two_operators_of_one_name_are_refused_and_the_same_code_again_is_not(registry: OperatorRegistry) -> None:
    def make(kind: str) -> Callable[[Any], Any]:
        def one(rows: Any) -> Any:
            return rows

        def other(rows: Any) -> Any:
            return rows

        return one if kind == "one" else other

    operator("twin")(make("one"))
    operator("twin")(make("one"))
    with pytest.raises(InvalidOperator, match=r"two operators are called 'twin': .*one and .*other"):
        operator("twin")(make("other"))
    assert [definition.name for definition in registry] == ["twin"]


def test_the_decorator_gives_the_code_back_unchanged() -> None:
    def code(rows: Any) -> Any:
        return rows

    assert operator("same")(code) is code
    assert REGISTRY.get("same") is None  # the process's own registry is left alone by these tests
