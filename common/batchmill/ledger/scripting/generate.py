"""Writes `calls.py`: a typed call for each ledger script, from what its header declares.

Run it after a header has changed: `python -m batchmill.ledger.scripting.generate`. A test compares.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.ledger.scripting.header import IN_ATTEMPT, Field, Header, Items, Key, header_of, identifier, scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TARGET = Path(__file__).with_name("calls.py")

HEAD = '''\
"""One typed call for each ledger script, written from its header by `make ledger-calls`: do not edit."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from batchmill.jobs.job import JobState
from batchmill.jobs.shard import ShardRef, format_shard_id
from batchmill.ledger.formats.encodings import write_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.cost import Parts
    from batchmill.jobs.shard import ShardId
    from batchmill.ledger.scripting.connection import Store
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
PARAM_TYPES = {
    "job_id": "str",
    "stage": "int",
    "shard_id": "ShardId",
    "pool": "str",
    "model": "str",
    "idempotency_key": "str",
    "endpoint": "str",
    "call": "str",
    "process": "str",
}
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
    for items in header.lists:
        if items.type:
            doc = f"An item of the list that `{header.script}.lua` takes."
            yield _class(
                f"{items.type}(NamedTuple)", doc, [f"    {one.name}: {_arg_type(one)}" for one in items.scope.values]
            )
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
    args = [_written(arg, arg.name) for arg in header.call.args]
    args += [f"len({items.name})" for items in header.lists[:-1]]
    yield "    reply = store.run("
    yield f"        {script},"
    yield from _list([_key(key, None, header) for key in header.call.keys], header.lists, _keys_of_item, header)
    yield from _list(args, header.lists, _args_of_item, header)
    yield "    )"
    yield f"    return {_read_reply(header, name)}"
    yield ""


def _list(
    fixed: list[str], lists: list[Items], of_item: Callable[[Items, Header], list[str]], header: Header
) -> Iterator[str]:
    """A list that is an argument: fixed elements, then those of each item of the call's lists."""
    elements = [f"            {element}," for element in fixed]
    for items in lists:
        parts = of_item(items, header)
        if len(parts) == 1:
            elements.append(f"            *({parts[0]} for {ITEM} in {items.name}),")
        elif parts:
            elements += [
                "            *(",
                "                part",
                f"                for {ITEM} in {items.name}",
                "                for part in (",
                *(f"                    {part}," for part in parts),
                "                )",
                "            ),",
            ]
    yield from ["        [", *elements, "        ],"] if elements else ["        [],"]


def _keys_of_item(items: Items, header: Header) -> list[str]:
    return [_key(key, items, header) for key in items.scope.keys]


def _args_of_item(items: Items, _: Header) -> list[str]:
    return [_written(arg, f"{ITEM}.{arg.name}" if items.type else ITEM) for arg in items.scope.args]


def _params(header: Header) -> Iterator[tuple[str, str]]:
    """The parameters of a call with their types: first those that only keys need."""
    given = header.call.values
    names = {value.name for value in given}
    for items in (None, *header.lists):
        scope = items.scope if items else header.call
        for param, optional in ((param, key.optional) for key in scope.keys for param in key.params):
            if _source(param, items, header) == param and param not in names:
                names.add(param)
                yield param, f"{PARAM_TYPES[param]} | None" if optional else PARAM_TYPES[param]
    for value in given:
        yield value.name, _arg_type(value)
    for items in header.lists:
        yield items.name, f"Sequence[{_item_type(items)}]"


def _item_type(items: Items) -> str:
    if items.type:
        return items.type
    return _arg_type(items.scope.values[0]) if items.scope.values else "str"


def _key(key: Key, items: Items | None, header: Header) -> str:
    if key.given:
        return ITEM
    spelled = f"keys.{key.name}({', '.join(_source(param, items, header) for param in key.params)})"
    if not key.optional:
        return spelled
    return f"{spelled} if {key.params[0]} is not None else keys.absent()"


def _source(param: str, items: Items | None, header: Header) -> str:
    """Where the parameter of a key is taken from."""
    if items is not None:
        for value in items.scope.values:
            if value.name == param:
                return f"{ITEM}.{param}" if items.type else ITEM
            if value.type == "attempt" and param in IN_ATTEMPT:
                return f"{ITEM}.{value.name}.{param}" if items.type else f"{ITEM}.{param}"
    if all(value.name != param for value in header.call.values) and param in IN_ATTEMPT:
        for value in header.call.values:
            if value.type == "attempt":
                return f"{value.name}.{param}"
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
