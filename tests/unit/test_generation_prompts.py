"""From rows to prompts that fit, and from answers to checked JSON; a tokenizer of words stands in for a model's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchmill.errors import InvalidParams, InvalidRows
from batchmill.operators.contract import RowError
from batchmill.operators.row_errors import ContextTooLong, InvalidOutput, OutputTruncated
from batchmill_worker.generation import bounded_validator
from batchmill_worker.generation.base import Answer, Draft, Message
from batchmill_worker.generation.drafts import PromptTemplate, chat, chat_of_column
from batchmill_worker.generation.fitting import fit, fit_parts
from batchmill_worker.generation.logprobs import read_logprobs
from batchmill_worker.generation.row_options import RowSchemas, read_options
from batchmill_worker.generation.schemas import AnswerSchema
from batchmill_worker.generation.seeds import row_seed
from batchmill_worker.operators.chat import Chat

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS = " ".join(f"w{number}" for number in range(50))


class Words:
    """A tokenizer of words, with one more for each message."""

    def __init__(self) -> None:
        self._words: list[str] = []

    def encode(self, text: str) -> tuple[int, ...]:
        tokens = []
        for word in text.split():
            if word not in self._words:
                self._words.append(word)
            tokens.append(self._words.index(word))
        return tuple(tokens)

    def encode_draft(self, draft: Draft) -> tuple[int, ...]:
        return self.encode(" ".join(f"<{message.role}> {message.text}" for message in draft.messages))

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(self._words[token] for token in tokens)


def draft(row: dict[str, Any], prompt: str = "Say: {body} . End", system: str = "Be {tone}") -> Draft:
    template = PromptTemplate("chat", "prompt", prompt)
    return chat(PromptTemplate("chat", "system", system).segments(row), template.segments(row))


@pytest.mark.parametrize(
    ("on_long", "left"),
    [
        ("cut_right", "w0 w1 w2 w3 w4 w5"),
        ("cut_left", "w44 w45 w46 w47 w48 w49"),
        ("cut_middle", "w0 w1 w2 … w48 w49"),
    ],
)
def test_the_longest_column_is_cut_to_the_budget_and_the_template_stays(on_long: Any, left: str) -> None:
    prompt = fit(Words(), draft({"body": WORDS, "tone": "brief"}), 13, on_long)

    system, user = prompt.draft.messages
    assert (system.text, user.text) == ("Be brief", f"Say: {left} . End")
    assert (len(prompt.tokens), prompt.tokens_cut) == (13, 44)


def test_a_prompt_that_fits_is_not_cut() -> None:
    prompt = fit(Words(), draft({"body": "short", "tone": "brief"}), 13, "cut_left")

    assert (prompt.draft.messages[1].text, prompt.tokens_cut) == ("Say: short . End", 0)


@pytest.mark.parametrize(
    ("on_long", "budget", "message"),
    [
        ("error", 13, "the prompt has 57 tokens, and the context has room for 13$"),
        ("cut_right", 7, "too few for what is around"),
        ("cut_right", -5, "room for 0, too few"),
    ],
)
def test_a_prompt_that_cannot_fit_fails_its_row(on_long: Any, budget: int, message: str) -> None:
    with pytest.raises(ContextTooLong, match=message):
        fit(Words(), draft({"body": WORDS, "tone": "brief"}), budget, on_long)


def test_of_several_columns_the_longest_is_cut() -> None:
    prompt = fit(Words(), draft({"a": "one two", "b": WORDS, "tone": "x"}, "{a} and {b}"), 12, "cut_right")

    assert prompt.draft.messages[1].text == "one two and w0 w1 w2 w3 w4"


def test_values_are_put_in_as_text_and_braces_can_be_written() -> None:
    row = {"n": 3, "x": 1.5, "yes": True, "text": "a {b}"}

    assert draft(row, "{n} {x} {yes} {text} {{n}}", "s").messages[1].text == "3 1.5 true a {b} {n}"


@pytest.mark.parametrize("template", ["{", "{}", "{0!r}", "{body:>10}", "}"])
def test_a_malformed_template_is_refused(template: str) -> None:
    with pytest.raises(InvalidParams, match="'prompt' is no template"):
        PromptTemplate("chat", "prompt", template)


def test_a_missing_column_is_the_jobs_fault_and_a_null_the_rows() -> None:
    template = PromptTemplate("chat", "prompt", "{body}")

    with pytest.raises(InvalidRows, match="reads the column 'body'"):
        template.segments({"bodi": "x"})
    with pytest.raises(RowError, match="'body' is null"):
        template.segments({"body": None})
    with pytest.raises(RowError, match="expected text or a number, got list"):
        template.segments({"body": ["x"]})


@pytest.mark.parametrize("as_text", [False, True])
def test_messages_are_read_from_a_column(as_text: bool) -> None:
    import json

    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Why?"}]
    row = {"chat": json.dumps(messages) if as_text else messages}

    read = chat_of_column("chat", row, "chat")

    assert [(message.role, message.text) for message in read] == [("system", "Be brief"), ("user", "Why?")]
    assert all(isinstance(message, Message) and message.segments[0].is_column for message in read)


@pytest.mark.parametrize("value", ["{", "[]", [{"role": "robot", "content": "x"}], [{"role": "user"}], ["x"], 7])
def test_a_column_without_messages_fails_its_row(value: Any) -> None:
    with pytest.raises(RowError, match="column 'chat'"):
        chat_of_column("chat", {"chat": value}, "chat")


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}


def answer(text: str, finish: str = "stop") -> Answer:
    return Answer(text, finish, 1, 0, 1)


def test_an_answer_is_held_against_the_schema_and_truncated_is_not_invalid() -> None:
    schema = AnswerSchema("chat", SCHEMA, retryable=True)

    schema.check(answer('{"n": 1}'))
    with pytest.raises(InvalidOutput, match=r"at \$\.n: 0 is less than the minimum") as invalid:
        schema.check(answer('{"n": 0}'))
    with pytest.raises(InvalidOutput, match="no JSON"):
        schema.check(answer("n"))
    with pytest.raises(OutputTruncated, match="raise 'max_tokens'"):
        schema.check(answer('{"n": 1}', "length"))
    assert invalid.value.retryable


def test_a_schema_that_refers_to_another_document_is_refused() -> None:
    AnswerSchema("chat", {"$ref": "#/$defs/n", "$defs": {"n": SCHEMA}}, retryable=False).check(answer('{"n": 1}'))
    with pytest.raises(InvalidParams, match=r"refers to 'http://127\.0\.0\.1/x'"):
        AnswerSchema("chat", {"anyOf": [{"$ref": "http://127.0.0.1/x"}]}, retryable=False)


def test_what_is_no_schema_is_refused() -> None:
    with pytest.raises(InvalidParams, match="'schema' is no JSON Schema"):
        AnswerSchema("chat", {"type": "wrong"}, retryable=False)


DOUBLED = {
    "$ref": "#/$defs/a0",
    "$defs": {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)} | {"a40": {"type": "string"}},
}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (DOUBLED, "combines itself, or more than 10,000 parts"),
        ({"allOf": [{"$ref": "#"}]}, "combines itself"),
        ({"type": "string", "pattern": "^(((a{100}){100}){100})$"}, "repeats more than 10,000 times"),
        ({"patternProperties": {"^(a{1,200}){1,200}$": {"type": "string"}}}, "repeats more than 10,000 times"),
        ({"type": "string", "pattern": f"^a{{{'9' * 5000}}}$"}, "repeats more than 10,000 times"),
        ({"type": "array", "minItems": 1_000_000_000}, "come to more than 10,000"),
        ({"properties": {name: {"type": "array", "maxItems": 4000} for name in "abc"}}, "come to more than 10,000"),
        ({"enum": ["a" * 20_000]}, "at most 16,384 are allowed"),
        (json.loads('{"not":' * 400 + "{}" + "}" * 400), "nested deeper than 100 levels"),
    ],
)
def test_a_schema_of_a_row_that_takes_long_to_prepare_fails_its_row(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message):
        RowSchemas("chat").get(json.dumps(schema))
    assert RowSchemas("chat").get(json.dumps({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2,4}$"}))


def test_a_schema_of_a_job_that_takes_more_memory_than_a_machine_has_is_refused() -> None:
    with pytest.raises(InvalidParams, match="'minItems' and 'maxItems' of all arrays of the schema come to more than"):
        AnswerSchema("chat", {"prefixItems": [{"type": "array", "minItems": 1e9}]}, retryable=False)
    with pytest.raises(InvalidParams, match="repeats more than 10,000 times"):
        AnswerSchema("chat", {"type": "string", "pattern": "^a{99999999999}$"}, retryable=False)
    AnswerSchema("chat", {"type": "array", "minItems": 2, "maxItems": 1000}, retryable=False)
    tree = {"anyOf": [{"type": "null"}, {"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}]}
    AnswerSchema("chat", tree, retryable=False).check(answer('{"left": {"left": null}}'))


LEVELS: dict[str, Any] = {"allOf": [{"properties": {"x": {"$ref": "#"}}}] * 2}
NESTED = "^(a|aa)+$"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (LEVELS, json.loads('{"x": ' * 40 + "1" + "}" * 40)),
        ({"anyOf": [{"pattern": NESTED}, {}]}, "a" * 60 + "b"),
        ({"anyOf": [{"patternProperties": {NESTED: {"type": "null"}}}, {}]}, {"a" * 60 + "b": 1}),
        ({"anyOf": [{"patternProperties": {NESTED: {}}, "additionalProperties": False}, {}]}, {"a" * 60 + "b": 1}),
    ],
    ids=["levels", "pattern", "names", "others"],
)
def test_an_answer_that_cannot_be_held_against_its_schema_in_time_is_invalid(
    schema: dict[str, Any], value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_validator, "PATTERN_S", 0.01)
    monkeypatch.setattr(bounded_validator, "CHECK_S", 0.05)
    with pytest.raises(InvalidOutput, match="cannot be held against the schema"):
        AnswerSchema("chat", schema, retryable=False).check(answer(json.dumps(value)))


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"a1": 1, "b": "x"}, None),
        ({"a1": "1"}, r"at \$\.a1: '1' is not of type 'integer'"),
        ({"b": "y"}, r"at \$\.b: 'y' does not match '\^x'"),
        ({"c": 1}, "the property 'c' is not allowed"),
        ([1], "is not of type 'object'"),
    ],
)
def test_patterns_of_a_schema_mean_what_they_do_in_json_schema(value: Any, fault: str | None) -> None:
    schema = AnswerSchema(
        "chat",
        {
            "type": "object",
            "properties": {"b": {"pattern": "^x"}},
            "patternProperties": {"^a[0-9]": {"type": "integer"}},
            "additionalProperties": False,
        },
        retryable=False,
    )
    if fault is None:
        schema.check(answer(json.dumps(value)))
    else:
        with pytest.raises(InvalidOutput, match=fault):
            schema.check(answer(json.dumps(value)))
    others = AnswerSchema("chat", {"additionalProperties": {"type": "integer"}}, retryable=False)
    with pytest.raises(InvalidOutput, match=r"at \$\.z"):
        others.check(answer('{"z": "text"}'))


def test_the_seed_of_a_row_depends_on_seed_path_and_failures_alone() -> None:
    seeds = [row_seed(seed, path, failures) for seed in (0, 1) for path in [(1,), (1, 1), (11,)] for failures in (0, 1)]

    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 31 for seed in seeds)
    assert seeds[0] == row_seed(0, (1,)) == 1381238731


def conversation(turns: int, words: int = 4) -> Draft:
    said: list[dict[str, str]] = [{"role": "system", "content": "be brief"}]
    for turn in range(turns):
        said.append({"role": "user", "content": " ".join([f"q{turn}"] * words)})
        said.append({"role": "assistant", "content": f"a{turn}"})
    return Draft(chat_of_column("chat", {"said": said[:-1]}, "said"))


def test_the_oldest_turns_are_left_out_and_what_comes_before_them_and_the_last_one_stay() -> None:
    prompt = fit(Words(), conversation(6), 20, "drop_turns")

    assert [message.text for message in prompt.draft.messages] == ["be brief", "q4 q4 q4 q4", "a4", "q5 q5 q5 q5"]
    assert (len(prompt.tokens), prompt.tokens_cut) == (15, 28)
    assert fit(Words(), conversation(2), 20, "drop_turns").tokens_cut == 0


def test_a_last_turn_that_does_not_fit_fails_its_row() -> None:
    with pytest.raises(ContextTooLong, match=r"has 43 tokens, .* room for 7, too few for its last turn"):
        fit(Words(), conversation(6), 7, "drop_turns")


def test_turns_are_left_out_of_a_column_of_messages_only() -> None:
    with pytest.raises(InvalidParams, match="'drop_turns', which needs 'messages'"):
        Chat(model="package:x", prompt="{body}", on_long="drop_turns")


def test_likelihoods_are_read_in_both_forms_of_the_api() -> None:
    top = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]
    chat_form = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": top}]}
    older = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5, "b": -1.5}]}

    assert read_logprobs(chat_form) == read_logprobs(older)
    assert read_logprobs(chat_form)[0].value() == {"token": "a", "logprob": -0.5, "top": top}
    assert read_logprobs(None) == ()


def test_a_long_column_is_split_between_words_into_parts_that_fit() -> None:
    made = draft({"body": WORDS, "tone": "brief"})

    parts = fit_parts(lambda one: fit(Words(), one, 13, "error"), made)

    texts = [part.draft.messages[1].text.removeprefix("Say: ").removesuffix(" . End") for part in parts]
    assert " ".join(texts) == WORDS
    assert 9 <= len(parts) <= 12
    assert all(len(part.tokens) <= 13 and part.draft.messages[0].text == "Be brief" for part in parts)
    (whole,) = fit_parts(lambda one: fit(Words(), one, 100, "error"), made)
    assert whole.draft == made
    with pytest.raises(ContextTooLong):
        fit_parts(lambda one: fit(Words(), one, 6, "error"), made)


def test_splitting_refuses_what_describes_one_answer() -> None:
    for more in ({"schema": {"type": "object"}}, {"logprobs": 1}):
        with pytest.raises(InvalidParams, match="'split'"):
            Chat(model="package:x", prompt="{body}", on_long="split", **more)


def test_what_is_nested_too_deep_to_be_read_fails_its_row() -> None:
    deep = '{"a":' * 2000 + "1" + "}" * 2000
    with pytest.raises(RowError, match="nested too deep"):
        RowSchemas("chat").get(deep)
    with pytest.raises(RowError, match="'options' is no JSON"):
        read_options("chat", {"options": deep}, "options")
