"""What endpoints of OpenAI's API make of results."""

from __future__ import annotations

from typing import Any

import pytest

from batchmill.operators.contract import OperatorInfo
from batchmill.storage.served_models import ServedModel
from batchmill_coordinator.endpoints.base import Answered, BodyFault
from batchmill_coordinator.endpoints.known import BY_KIND, served_params

ABOUT = Answered("1", "m", 0)


@pytest.mark.parametrize(("kind", "column"), [("chat", "text"), ("completions", "text"), ("embeddings", "embedding")])
def test_results_without_the_column_of_the_answer_are_a_fault_of_the_model(kind: Any, column: str) -> None:
    with pytest.raises(BodyFault, match=f"makes no column '{column}'") as caught:
        BY_KIND[kind].answer(ABOUT, [{"other": 1}])
    assert caught.value.param == "model"


@pytest.mark.parametrize(("kind", "params"), [("chat", {"prompt": "Say {x}"}), ("completions", {"prompt": "Say {x}"})])
def test_a_model_with_a_prompt_of_its_own_takes_none(kind: Any, params: dict[str, Any]) -> None:
    with pytest.raises(BodyFault, match="prompt of its own"):
        BY_KIND[kind].check(ServedModel(operator="chat", params=params))


def test_rows_are_in_the_columns_that_the_operator_reads() -> None:
    model = ServedModel(operator="embed", params={"column": "body"})
    rows = BY_KIND["embeddings"].rows({"model": "m", "input": ["a"]}, model)
    assert rows.rows == ({"body": "a"},)
    operator = OperatorInfo(name="embed", params_schema={"properties": {"column": {}, "token_counts": {}}})
    assert served_params(operator, "embeddings", model.params) == {"column": "body", "token_counts": True}
    assert served_params(OperatorInfo(name="own", params_schema={}), "embeddings", {}) == {}
