"""Calls of functions: the form that chat templates give them, reading them from answers, and their schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from batchmill.operators.contract import RowError
from batchmill_worker.generation.base import Answer, Draft, EngineLimits, Generation, Prompt, Sampling, ToolFormat
from batchmill_worker.generation.drafts import chat_of_column
from batchmill_worker.generation.tools import (
    StreamedTexts,
    call_schema,
    choose_tools,
    find_format,
    read_calls,
    with_tools,
)
from support.tool_template import TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CITY = {"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}}, "$defs": {"City": {"enum": ["Rome"]}}}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "now"}},
]
FORM = ToolFormat("<tool_call>\n", "name", "arguments")

LLAMA = """{% for message in messages %}<|{{ message.role }}|>
{%- if message.role == 'user' and tools %}{{ tools | tojson }}{% endif %}
{%- if message.tool_calls %}{% set call = message.tool_calls[0].function %}
{{- '{"name": "' + call.name + '", "parameters": ' + call.arguments + '}' }}
{%- else %}{{ message.content }}{% endif %}<|end|>{% endfor %}<|assistant|>"""
MISTRAL = """{% if tools %}[TOOLS]{{ tools | tojson }}{% endif %}{% for message in messages %}
{%- if message.tool_calls %}[TOOL_CALLS][
{%- for call in message.tool_calls %}
{{- '{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments + ', "id": "x"}' }}
{%- endfor %}]</s>{% else %}[INST]{{ message.content }}[/INST]{% endif %}{% endfor %}"""
XML = """{{ tools }}{% for message in messages %}{% if message.tool_calls %}<function=
{{- message.tool_calls[0].function.name }}>{{ message.tool_calls[0].function.arguments }}</function>
{%- else %}{{ message.content }}{% endif %}|{% endfor %}"""
WITHOUT = "{% for message in messages %}{{ message.role + message.content }}{% endfor %}"
REFUSES = "{{ tools | tojson }}{% if messages | length > 1 %}{{ raise_exception('one message only') }}{% endif %}"


def filler(template: str) -> Callable[[Draft, Sequence[str]], str]:
    compiled = ImmutableSandboxedEnvironment().from_string(template)

    def fill(draft: Draft, contents: Sequence[str]) -> str:
        messages = [message.value(content) for message, content in zip(draft.messages, contents, strict=True)]
        tools = json.loads(draft.tools.functions) if draft.tools else None
        return compiled.render(messages=messages, tools=tools, add_generation_prompt=True)

    return fill


def generation(tools: Any = TOOLS, opening: str = "") -> Generation:
    chosen = choose_tools(tools, "required" if opening else "auto")
    assert chosen is not None
    limits = EngineLimits(None, 1, has_tools=True, tool_format=FORM)
    draft, sampling = with_tools(limits, Draft(()), Sampling(10), chosen)
    return Generation(1, Prompt(draft, (1, 2)), sampling, 0)


def answer(text: str) -> Answer:
    return Answer(text, "stop", 1, 0, 1)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TEMPLATE.strip(), FORM),
        (LLAMA, ToolFormat("", "name", "parameters")),
        (MISTRAL, ToolFormat("[TOOL_CALLS][", "name", "arguments")),
        (XML, None),
        (WITHOUT, None),
        (REFUSES, None),
    ],
)
def test_the_form_of_calls_is_read_from_the_chat_template(template: str, expected: ToolFormat | None) -> None:
    assert find_format(filler(template)) == expected


def test_calls_are_read_with_the_text_before_them() -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    text, calls = read_calls(FORM, generation(), answer(f"I look. {call}\n{call}"))
    assert text == "I look."
    assert [(one.name, one.arguments) for one in calls] == [("weather", '{"city": "Rome"}')] * 2
    assert len({one.id for one in calls}) == 2
    assert read_calls(FORM, generation(), answer(f"I look. {call}\n{call}"))[1] == calls

    plain = ToolFormat("", "name", "parameters")
    assert read_calls(plain, generation(), answer('{"name": "now", "parameters": {}}'))[1][0].name == "now"


@pytest.mark.parametrize(
    "text",
    [
        "just text",
        "<tool_call>",
        '<tool_call>{"name": "weather", "arguments": {"city"',
        '<tool_call>{"name": "unknown", "arguments": {}}',
        '<tool_call>{"name": "now", "arguments": "none"}',
        '<tool_call>{"arguments": {}}',
    ],
)
def test_what_is_no_call_of_a_known_function_is_text(text: str) -> None:
    assert read_calls(FORM, generation(), answer(text)) == (text, ())


def test_a_call_that_has_to_be_made_is_begun_and_has_a_schema() -> None:
    made = generation(opening="yes")
    assert made.prompt.draft.tools is not None
    assert made.prompt.draft.tools.opening == FORM.opening
    assert read_calls(FORM, made, answer('{"name": "now", "arguments": {}}'))[1][0].name == "now"
    validator = Draft202012Validator(json.loads(made.sampling.schema))
    good = [{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "now", "arguments": {}}]
    bad = [{"name": "weather", "arguments": {"city": "Oslo"}}, {"name": "then", "arguments": {}}, {"name": "now"}]
    assert [validator.is_valid(one) for one in (*good, *bad)] == [True, True, False, False, False]
    named = choose_tools(TOOLS, "now")
    assert named is not None
    assert call_schema(FORM, named.parameters)["properties"]["name"] == {"const": "now"}


def test_tools_are_refused_where_they_cannot_be_used() -> None:
    chosen = choose_tools(TOOLS, "auto")
    assert chosen is not None
    limits = EngineLimits(None, 1, has_tools=True, tool_format=FORM)
    for one, draft, sampling in (
        (EngineLimits(None, 1), Draft(()), Sampling(1)),
        (limits, Draft(()), Sampling(1, schema="{}")),
        (limits, Draft((), is_chat=False), Sampling(1)),
    ):
        with pytest.raises(RowError, match="tools"):
            with_tools(one, draft, sampling, chosen)
    with pytest.raises(RowError, match="'tool_choice' is 'then'"):
        choose_tools(TOOLS, "then")
    assert choose_tools(TOOLS, "none") is None


@pytest.mark.parametrize("size", [1, 3, 100])
def test_streamed_text_has_no_part_of_a_call(size: int) -> None:
    sent: list[tuple[int, str]] = []
    texts = StreamedTexts(lambda row, text: sent.append((row, text)), FORM)
    texts.expect(0, generation())
    texts.expect(1, generation(opening="yes"))
    texts.expect(2, generation())
    for row, text in enumerate(("a < b <tool\n<tool_call>\n{}", '{"name": "now"}', "a <tool")):
        for start in range(0, len(text), size):
            texts.more(row, text[start : start + size])
    texts.more(3, "<tool_call>")
    whole = {row: "".join(text for one, text in sent if one == row) for row in range(4)}
    assert whole == {0: "a < b <tool", 1: "", 2: "a", 3: "<tool_call>"}


def test_messages_with_calls_are_read_in_both_forms() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    for calls in ([call], json.dumps([call])):
        messages: list[dict[str, Any]] = [
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "noon", "tool_call_id": "call_1"},
        ]
        assert [one.value() for one in chat_of_column("chat", {"m": messages}, "m")] == [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            messages[1],
        ]
    call["function"] = {"name": "now", "arguments": "now"}
    with pytest.raises(RowError, match="'tool_calls'"):
        chat_of_column("chat", {"m": [{"role": "assistant", "tool_calls": [call]}]}, "m")


@pytest.mark.parametrize("name", ["none", "auto", "required"])
def test_a_function_is_not_called_as_a_choice_is(name: str) -> None:
    with pytest.raises(ValidationError, match="value of tool_choice"):
        choose_tools([{"type": "function", "function": {"name": name}}], "auto")


def test_an_answer_that_is_nested_without_end_has_no_calls() -> None:
    deep = '<tool_call>\n{"name": "now", "arguments": ' + '{"a": ' * 100_000
    assert read_calls(FORM, generation(), answer(deep)) == (deep, ())
