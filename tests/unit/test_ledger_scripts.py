"""The ledger's scripts against their headers, and the calls that are generated from them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from batchmill.ledger.scripting.generate import TARGET, generate
from batchmill.ledger.scripting.header import header_of, identifier, read_header, scripts, text_of
from batchmill.ledger.scripting.script_text import PRELUDE

if TYPE_CHECKING:
    from batchmill.ledger.scripting.header import Scope

EXAMPLE = """\
-- Do something. It has reasons.
--
-- @key job
-- @key idempotency?
-- @arg now: clock
-- @arg rows: int?  many
-- @each shards: Some
-- @key shard
-- @arg shard_id: shard_id
-- @each live
-- @param stage: int
-- @key done
-- @answers ok | no room
-- @returns parts: text?*
"""
CREATED = {"planned", "waiting", "pending"}
"""States that a shard or job may begin in: they are written with its other fields."""


def body_of(script: str) -> str:
    return "\n".join(line for line in text_of(script).splitlines() if not line.startswith("--"))


def names_in(text: str, table: str) -> set[str]:
    return set(re.findall(rf"(?<![\w.]){table}\.(\w+)", text))


def declared(scope: Scope) -> set[str]:
    return {arg.name for arg in scope.args if arg.type != "clock"}


def test_the_calls_are_what_the_headers_declare() -> None:
    assert TARGET.read_text() == generate(), "run `make ledger-calls`"


@pytest.mark.parametrize("script", scripts())
def test_a_script_uses_every_key_argument_and_answer_that_it_declares_and_no_other(script: str) -> None:
    header, body = header_of(script), body_of(script)
    passed_on = re.search(r"\(keys[,)]", body)  # to a function of the prelude, which names its keys

    keys = {key.name for key in header.call.keys}
    used = names_in(body, "keys")
    assert used <= keys
    assert passed_on or used == keys
    assert names_in(body, "args") == declared(header.call)
    answers = {identifier(answer) for answer in header.answers}
    assert names_in(body, "answer") <= answers
    assert "answer[refusal]" in body or names_in(body, "answer") == answers
    assert ("now" in re.findall(r"\bnow\b", body)) == any(arg.type == "clock" for arg in header.call.args)


@pytest.mark.parametrize("script", [name for name in scripts() if header_of(name).lists])
def test_a_script_uses_all_that_it_declares_of_an_item_and_nothing_else(script: str) -> None:
    body = body_of(script)
    for items in header_of(script).lists:
        head = rf"for \w+, (\w+) in ipairs\({items.name}\) do"
        loops = re.findall(rf"{head}\n(.*?)\nend", body, re.DOTALL) + re.findall(rf"{head} ([^\n]*) end\n", body)
        used = set().union(*(names_in(text, item) for item, text in loops))
        assert loops
        assert used == declared(items.scope) | ({"keys"} if items.scope.keys else set())
        used_keys = set().union(*(set(re.findall(rf"\b{item}\.keys\.(\w+)", text)) for item, text in loops))
        passed_on = any(re.search(rf"\({item}\.keys[,)]", text) for item, text in loops)
        costs = {"cost_tenants", "cost_pools", "cost_days"}  # which `charge` finds among the keys of the item
        assert used_keys - costs <= {key.name for key in items.scope.keys}
        assert passed_on or used_keys == {key.name for key in items.scope.keys}


@pytest.mark.parametrize("script", [*scripts(), *PRELUDE])
def test_no_script_takes_a_key_or_argument_by_its_number(script: str) -> None:
    assert not re.search(r"\b(?:KEYS|ARGV)\b", body_of(script))


@pytest.mark.parametrize("script", [*scripts(), *(name for name in PRELUDE if name != "_prelude")])
def test_a_state_changes_only_through_the_functions_that_check_the_move(script: str) -> None:
    written = re.findall(r"'HSET', [^\n]*'state', ([^\s,)]+)", body_of(script))

    assert {state.strip("'") for state in written} <= CREATED


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("-- @arg rows: integer", "with a type of"),
        ("-- @arg rows", "expected 'name: type"),
        ("-- @argument rows: int", "got @argument"),
        ("-- @key jib", "no key 'jib'"),
    ],
)
def test_a_line_that_declares_nothing_known_is_refused(line: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        read_header("broken", f"-- Do it.\n{line}\n")


def test_a_header_is_read_as_it_was_written() -> None:
    header = read_header("example", EXAMPLE)

    assert header.summary == "Do something."
    assert [(key.name, key.optional) for key in header.call.keys] == [("job", False), ("idempotency", True)]
    assert [(arg.name, arg.type, arg.optional) for arg in header.call.args] == [
        ("now", "clock", False),
        ("rows", "int", True),
    ]
    lists = [(one.name, one.type, [key.name for key in one.scope.keys]) for one in header.lists]
    assert lists == [("shards", "Some", ["shard"]), ("live", "", ["done"])]
    assert [param.name for param in header.lists[1].scope.params] == ["stage"]
    assert header.answers == ["ok", "no room"]
    assert [(part.name, part.optional, part.many) for part in header.returns] == [("parts", True, True)]
