"""Writes `calls.py`: a typed call for each ledger script, from what its header declares.

Run it after a header has changed: `python -m batchmill.ledger.generate`. A test compares.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.ledger.header import IN_ATTEMPT, Field, Header, Key, Scope, header_of, identifier, scripts

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = Path(__file__).with_name("calls.py")

HEAD = '''\
"""One typed call for each ledger script, written by `batchmill.ledger.generate` from its header: do not edit."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from batchmill.job import JobState
from batchmill.ledger.encodings import write_parts
from batchmill.shard import ShardRef, format_shard_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.cost import Parts
    from batchmill.ledger.connection import Store
    from batchmill.shard import ShardId
'''
TYPES = {
    "text": "str",
    "bytes": "bytes",
    "int": "int",
    "float": "float",
    "flag": "bool",
    "attempt": "ShardRef",
    "shard_id": "ShardId",
    "job_state": "JobState",
    "parts": "Parts",
}
WRITTEN = {
    "flag": "int({})",
    "attempt": "{}.attempt_key",
    "shard_id": "format_shard_id({})",
    "parts": "write_parts({})",
    "clock": "store.now_ms",
    "channel": "keys.events()",
}
READ = {
    "int": "int({})",
    "text": "{}.decode()",
    "bytes": "bytes({})",
    "flag": "bool({})",
    "attempt": "ShardRef.from_key({})",
    "job_state": "JobState({}.decode())",
}
IMPLIED = ("clock", "channel")
"""Types of arguments that the store knows."""

PARAM_TYPES = {"job_id": "str", "stage": "int", "shard_id": "ShardId", "pool": "str", "idempotency_key": "str"}
ITEM = "item"


def main() -> None:
    """Write the file."""
    TARGET.write_text(generate())


def generate() -> str:
    """The text of `calls.py`."""
    return "\n\n".join([HEAD, *("\n\n".join(_blocks(header_of(script))) for script in scripts())])


def _blocks(header: Header) -> Iterator[str]:
    name = _camel(header.script)
    if header.answers:
        members = [f'    {identifier(answer).upper()} = "{answer}"' for answer in header.answers]
        yield _class(f"{name}Answer(StrEnum)", f"What `{header.script}.lua` answers.", members)
    if _has_record(header):
        fields = [f"    {part.name}: {_reply_type(part, name)}" for part in header.returns]
        own = [f"    answer: {name}Answer"] if header.answers else []
        yield _class(f"{name}Reply(NamedTuple)", f"What `{header.script}.lua` replies.", [*own, *fields])
    if header.item_type:
        fields = [f"    {arg.name}: {_arg_type(arg)}" for arg in header.item.args]
        doc = f"An item of the list that `{header.script}.lua` takes."
        yield _class(f"{header.item_type}(NamedTuple)", doc, fields)
    yield "\n".join(_call(header, name))


def _class(head: str, doc: str, members: list[str]) -> str:
    return "\n".join([f"class {head}:", f'    """{doc}"""', "", *members, ""])


def _call(header: Header, name: str) -> Iterator[str]:
    yield f"def {header.script}("
    yield "    store: Store,"
    params = [f"    {param}: {kind}," for param, kind in _params(header)]
    yield from ["    *,", *params] if params else []
    yield f") -> {_returned(header, name)}:"
    yield f'    """{header.summary}"""'
    yield "    keys = store.keys"
    script = f'"{header.script}"'
    keys = [_key(key, header.call, header) for key in header.call.keys]
    args = [_written(arg, arg.name) for arg in header.call.args]
    yield "    reply = store.run("
    yield f"        {script},"
    yield from _list(keys, [_key(key, header.item, header) for key in header.item.keys], header.items)
    yield from _list(args, _item_args(header), header.items)
    yield "    )"
    yield f"    return {_read_reply(header, name)}"
    yield ""


def _list(fixed: list[str], of_item: list[str], items: str) -> Iterator[str]:
    """A list that is an argument: fixed elements, then those of each item."""
    elements = [f"            {element}," for element in fixed]
    if of_item:
        inner = of_item[0] if len(of_item) == 1 else None
        if inner is not None:
            elements.append(f"            *({inner} for {ITEM} in {items}),")
        else:
            elements += [
                "            *(",
                "                part",
                f"                for {ITEM} in {items}",
                "                for part in (",
                *(f"                    {element}," for element in of_item),
                "                )",
                "            ),",
            ]
    if not elements:
        yield "        [],"
        return
    yield "        ["
    yield from elements
    yield "        ],"


def _params(header: Header) -> Iterator[tuple[str, str]]:
    """The parameters of a call with their types: first those that only keys need."""
    given = [arg for arg in header.call.args if arg.type not in IMPLIED]
    names = {arg.name for arg in given}
    for scope in (header.call, header.item):
        for param, optional in ((param, key.optional) for key in scope.keys for param in key.params):
            if _source(param, scope, header) == param and param not in names:
                names.add(param)
                yield param, f"{PARAM_TYPES[param]} | None" if optional else PARAM_TYPES[param]
    for arg in given:
        yield arg.name, _arg_type(arg)
    if header.items:
        yield header.items, f"Sequence[{_item_type(header)}]"


def _item_type(header: Header) -> str:
    if header.item_type:
        return header.item_type
    return _arg_type(header.item.args[0]) if header.item.args else "str"


def _item_args(header: Header) -> list[str]:
    args = header.item.args
    return [_written(arg, f"{ITEM}.{arg.name}" if header.item_type else ITEM) for arg in args]


def _key(key: Key, scope: Scope, header: Header) -> str:
    if key.given:
        return ITEM
    spelled = f"keys.{key.name}({', '.join(_source(param, scope, header) for param in key.params)})"
    if not key.optional:
        return spelled
    return f'{spelled} if {key.params[0]} is not None else ""'


def _source(param: str, scope: Scope, header: Header) -> str:
    """Where the parameter of a key is taken from."""
    if scope is header.item:
        for arg in scope.args:
            if arg.name == param:
                return f"{ITEM}.{param}" if header.item_type else ITEM
            if arg.type == "attempt" and param in IN_ATTEMPT:
                return f"{ITEM}.{arg.name}.{param}" if header.item_type else f"{ITEM}.{param}"
    if all(arg.name != param for arg in header.call.args) and param in IN_ATTEMPT:
        for arg in header.call.args:
            if arg.type == "attempt":
                return f"{arg.name}.{param}"
    return param


def _arg_type(arg: Field) -> str:
    return f"{TYPES[arg.type]} | None" if arg.optional else TYPES[arg.type]


def _written(arg: Field, value: str) -> str:
    written = WRITTEN.get(arg.type, "{}").format(value)
    return f'"" if {value} is None else {written}' if arg.optional else written


def _has_record(header: Header) -> bool:
    return len(header.returns) + bool(header.answers) > 1 and not _is_list_of_answers(header)


def _is_list_of_answers(header: Header) -> bool:
    return [part.type for part in header.returns] == ["answer"]


def _returned(header: Header, name: str) -> str:
    if _has_record(header):
        return f"{name}Reply"
    return _reply_type(header.returns[0], name) if header.returns else f"{name}Answer"


def _reply_type(part: Field, name: str) -> str:
    kind = f"{name}Answer" if part.type == "answer" else TYPES[part.type]
    kind = f"{kind} | None" if part.optional else kind
    return f"list[{kind}]" if part.many else kind


def _read_reply(header: Header, name: str) -> str:
    if not _has_record(header):
        return _read(header.returns[0], "reply", name) if header.returns else f"{name}Answer(reply.decode())"
    parts = [Field("answer", "answer"), *header.returns] if header.answers else header.returns
    read = [_read(part, f"reply[{at}{':' if part.many else ''}]", name) for at, part in enumerate(parts)]
    lines = "".join(f"        {one},\n" for one in read)
    return f"{name}Reply(\n{lines}    )"


def _read(part: Field, value: str, name: str) -> str:
    one = READ.get(part.type, f"{name}Answer({{}}.decode())").format("one" if part.many else value)
    if part.optional:
        one = f"{one} if {'one is not None' if part.many else value} else None"
    return f"[{one} for one in {value}]" if part.many else one


def _camel(text: str) -> str:
    return "".join(word.capitalize() for word in text.split("_"))


if __name__ == "__main__":
    main()
