"""Calls of functions by transformers: chat templates in both forms, marks that are control tokens, real answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.errors import InvalidParams
from batchmill_worker.generation.base import Draft, Message, Segment, ToolFormat
from batchmill_worker.generation.engines.hf_tokenizer import HfTokenizer
from batchmill_worker.generation.tools import choose_tools
from support.hf_models import CONTROL, END, make_language_model, teach
from support.language_models import Shards, loaded
from support.tool_template import TEMPLATE

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from batchmill_worker.models.ready_operator import ReadyOperator

pytestmark = pytest.mark.models
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("now", "weather")
]
OBJECTS = TEMPLATE.replace("if given is string", "if false")  # as Qwen's
TEXTS = TEMPLATE.replace("if given is string", "if true")
MARK = CONTROL[0]  # of this tokenizer, in place of `[TOOL_CALLS]`
MARKED = TEMPLATE.replace(r"'<tool_call>\n{", "'" + MARK + "{")
CALL = '<tool_call>\n{"name": "now", "arguments": {"zone": "UTC"}}\n</tool_call>'
BODY = "What time is it?"


def tokenizer(folder: Path, template: str) -> HfTokenizer:
    from transformers import AutoTokenizer

    make_language_model(folder, template=template.strip())
    return HfTokenizer("chat", str(folder), AutoTokenizer.from_pretrained(folder))


def called() -> Draft:
    chosen = choose_tools(TOOLS, "auto")
    assert chosen is not None
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
    messages = (
        Message("user", (Segment(BODY, is_column=True),)),
        Message("assistant", (), tool_calls=json.dumps([call])),
        Message("tool", (Segment("noon", is_column=True),), tool_call_id="call_1"),
    )
    return Draft(messages, tools=chosen.tools)


@pytest.mark.parametrize("template", [OBJECTS, TEXTS, TEMPLATE])
def test_templates_with_arguments_as_objects_and_as_text_write_the_same_call(tmp_path: Path, template: str) -> None:
    made = tokenizer(tmp_path, template)
    assert made.tool_format == ToolFormat("<tool_call>\n", "name", "arguments")
    written = made.fill_template(called(), [BODY, "", "noon"])
    assert CALL in written
    assert '"name": "weather"' in written
    assert "result: noon" in written


def test_a_call_that_begins_with_a_control_token_is_seen_and_other_control_tokens_are_not(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, MARKED)
    assert made.tool_format == ToolFormat(MARK, "name", "arguments")
    tokens = made.encode_text(f"I look.{MARK}{{}}{END}", special=True, begin=False)
    assert made.decode(tokens) == made.stream().read(tokens) == f"I look.{MARK}{{}}"
    assert tokens[-1] == made.end
    assert made.encode(MARK) != made.encode_text(MARK, special=True, begin=False)


def test_a_template_without_tools_has_none(tmp_path: Path) -> None:
    from support.hf_models import TEMPLATE as PLAIN

    assert tokenizer(tmp_path, PLAIN).tool_format is None


def of(folder: Path, **params: Any) -> AbstractContextManager[ReadyOperator]:
    general: dict[str, Any] = {"model": str(folder), "prompt": "{body}", "max_tokens": 120, "context": 512}
    return loaded("chat", folder.parent, **(general | {"threads": None, "tools": TOOLS} | params))


@pytest.mark.slow
def test_a_model_answers_by_a_call(tmp_path: Path) -> None:
    folder = tmp_path / "calls"
    made = tokenizer(folder, TEMPLATE)
    asked = Draft(called().messages[:1], tools=called().tools)
    teach(folder, made.fill_template(asked, [BODY]), f"Let me see. {CALL}{END}")

    with of(folder) as operator:
        result = Shards(operator).run(pa.table({"body": [BODY]}))

    (row,) = result.table.to_pylist()
    assert (row["text"], row["finish_reason"]) == ("Let me see.", "tool_calls")
    (call,) = row["tool_calls"]
    assert call["function"] == {"name": "now", "arguments": '{"zone": "UTC"}'}


@pytest.mark.parametrize("choice", ["required", pytest.param("now", marks=pytest.mark.slow)])
def test_a_call_that_has_to_be_made_is_refused_for_the_job_and_for_a_row(tmp_path: Path, choice: str) -> None:
    folder = tmp_path / "calls"
    make_language_model(folder, template=TEMPLATE.strip())
    with pytest.raises(InvalidParams, match="has no 'tool_choice'"), of(folder, tool_choice=choice):
        pass
    with of(folder, options="own") as operator:
        own = [json.dumps({"tool_choice": choice}), json.dumps({"tool_choice": "none"})]
        result = Shards(operator).run(pa.table({"body": [BODY, BODY], "own": own}))
    assert result.rows_done == 1
    (dead,) = result.dead
    assert "'tool_choice' has to be auto or none" in dead.failure.message


def test_tools_are_refused_where_the_template_has_none(tmp_path: Path) -> None:
    folder = make_language_model(tmp_path / "plain")
    with pytest.raises(InvalidParams, match="has no 'tools'"), of(folder):
        pass
