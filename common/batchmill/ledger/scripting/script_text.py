"""The text of a script as Redis runs it: state machines, prelude, its keys and arguments by name, and its body."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from batchmill.jobs.job import JOB_MOVES, JobState
from batchmill.jobs.shard import SHARD_MOVES, ShardState
from batchmill.ledger.scripting.header import Field, Header, Scope, header_of, identifier, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

S = TypeVar("S", JobState, ShardState)

_DEFINED = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)
_COMMENT = re.compile(r"--.*")
_WORD = re.compile(r"[A-Za-z_]\w*")

PRELUDE = ("_encodings", "_prelude", "_indexes", "_costs", "_stragglers", "_row_cache")


@dataclass(frozen=True, slots=True)
class _Block:
    """A part of the prelude, which scripts take if they use it."""

    text: str
    defined: frozenset[str]
    words: frozenset[str]


@cache
def script_text(script: str) -> str:
    """The text of a script, complete."""
    own = f"{bindings(header_of(script))}\n{text_of(script)}"
    return "\n".join([*_needed(own, [*_blocks(states()), *_blocks_of_prelude()]), own])


def states() -> str:
    """The state machines in Lua, from `JOB_MOVES` and `SHARD_MOVES`: functions, which cost nothing until called."""
    return "\n\n".join(
        [
            _predicate("is_final", (state for state in JobState if state.is_final)),
            _predicate("is_stopping", (state for state in JobState if state.is_stopping)),
            _predicate("takes_shards", (state for state in JobState if state.takes_shards)),
            _moves("may_move_job", JOB_MOVES),
            _moves("may_move_shard", SHARD_MOVES),
        ]
    )


def _needed(text: str, blocks: Sequence[_Block]) -> list[str]:
    """Those of the blocks that a text uses, directly or by way of others, in their order.

    What a script does not use would cost it some microseconds at every call, because Lua makes a function anew each
    time it comes to its definition.
    """
    words, kept = _words(text), set[int]()
    for number in reversed(range(len(blocks))):  # a block uses only those before it
        if blocks[number].defined & words:
            kept.add(number)
            words |= blocks[number].words
    return [block.text for number, block in enumerate(blocks) if number in kept]


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(_COMMENT.sub("", text)))


@cache
def _blocks_of_prelude() -> tuple[_Block, ...]:
    return tuple(block for name in PRELUDE for block in _blocks(text_of(name)))


def _blocks(text: str) -> list[_Block]:
    """The parts of a text between blank lines that define something."""
    parts = (_Block(part, frozenset(_DEFINED.findall(part)), _words(part)) for part in text.split("\n\n"))
    return [part for part in parts if part.defined]


def bindings(header: Header) -> str:
    """The keys and arguments of a call under their names: `keys.job`, `args.rows`, and each item of its list."""
    call = header.call
    numbers = {arg.name: at for at, arg in enumerate(call.args, 1)}
    lines = [
        f"local keys = {{{_key_fields(call, 'KEYS')}}}",
        f"local args = {{{_arg_fields(call, 'ARGV')}}}",
        f"local answer = {{{', '.join(f'{identifier(one)} = {one!r}' for one in header.answers)}}}",
    ]
    lines += [f"local now = now_ms(ARGV[{numbers[arg.name]}])" for arg in call.args if arg.type == "clock"]
    return "\n".join([*lines, *_lists(header)])


def _lists(header: Header) -> Iterator[str]:
    """The lists of a call. The lengths of all but the last are sent behind its arguments."""
    if not header.lists:
        return
    sent = len(header.call.args)
    yield f"local key_at, arg_at = {len(header.call.keys)}, {sent + len(header.lists) - 1}"
    for number, items in enumerate(header.lists, 1):
        scope, is_last = items.scope, number == len(header.lists)
        rest = f"(#ARGV - arg_at) / {len(scope.args)}" if scope.args else f"(#KEYS - key_at) / {len(scope.keys)}"
        yield f"local {items.name} = {{}}"
        yield f"for number = 1, {rest if is_last else f'tonumber(ARGV[{sent + number}])'} do"
        own_keys = f"keys = {{{_key_fields(scope, 'KEYS', 'key_at')}}}, " if scope.keys else ""
        yield f"  {items.name}[number] = {{{own_keys}{_arg_fields(scope, 'ARGV', 'arg_at')}}}"
        yield f"  key_at, arg_at = key_at + {len(scope.keys)}, arg_at + {len(scope.args)}"
        yield "end"


def _key_fields(scope: Scope, table: str, offset: str = "") -> str:
    fields = []
    for at, key in enumerate(scope.keys, 1):
        value = _place(table, at, offset)
        fields.append(f"{key.name} = {f'given_key({value})' if key.optional else value}")
    return ", ".join(fields)


def _arg_fields(scope: Scope, table: str, offset: str = "") -> str:
    fields = []
    for at, arg in enumerate(scope.args, 1):
        if arg.type != "clock":
            fields.append(f"{arg.name} = {_value(arg, _place(table, at, offset))}")
    return ", ".join(fields)


def _place(table: str, at: int, offset: str) -> str:
    return f"{table}[{offset} + {at}]" if offset else f"{table}[{at}]"


def _value(arg: Field, place: str) -> str:
    if arg.type == "flag":
        return f"{place} == '1'"
    if arg.type == "attempt":
        return f"parse_attempt({place})"
    return f"given({place})" if arg.optional else place


def _predicate(name: str, states: Iterable[JobState]) -> str:
    return f"local function {name}(state)\n  return {_is_one_of('state', states)}\nend"


def _moves(name: str, moves: Mapping[S, frozenset[S]]) -> str:
    cases: list[str] = []
    for state, following in moves.items():
        if following:
            cases.append(f"  if before == '{state}' then return {_is_one_of('after', sorted(following))} end")
    return "\n".join([f"local function {name}(before, after)", *cases, "  return false", "end"])


def _is_one_of(variable: str, states: Iterable[str]) -> str:
    return " or ".join(f"{variable} == '{state}'" for state in states)
