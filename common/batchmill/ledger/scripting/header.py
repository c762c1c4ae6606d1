"""The declaration of a ledger script: its header, which says what it takes and answers.

A line that begins with `-- @` declares something, and the others are prose:

    -- @key job                      a key, named after the method of `Keys` that spells it; `job?` may be left out;
                                     `other: given` is spelled by the caller
    -- @arg lease_ms: int  how long  an argument: name, type, explanation; `int?` may be left out
    -- @each shards: PlannedShard    what follows belongs to each item of this list, and the items' type (not needed for
                                     items of one value)
    -- @param stage: int             what only the keys need of the call or item: it is not sent
    -- @answers ok | stale           every answer that the script may give, first in its reply
    -- @returns plan: bytes          what else its reply holds, in order; `text*` for any number of them

The parameters of a key (a job's id, a stage, …) are taken from the arguments of that name or from an argument of type
`attempt`; what neither has becomes a parameter of the call.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from batchmill.ledger.formats.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

ARG_TYPES = frozenset(
    {"clock", "channel", "text", "bytes", "int", "float", "flag", "attempt", "shard_id", "job_state", "parts"}
)
REPLY_TYPES = frozenset({"text", "bytes", "int", "flag", "attempt", "job_state", "answer"})
IMPLIED = ("clock", "channel")
"""Types of arguments that the store knows."""

IN_ATTEMPT = ("job_id", "stage", "shard_id")
"""The parameters of keys that an argument of type `attempt` has."""

_LINE = re.compile(r"^-- @(\w+) +(.*)$")
_FIELD = re.compile(r"^(\w+): (\w+)(\??)(\*?)(?: {2,}.*)?$")


@dataclass(frozen=True, slots=True)
class Field:
    """An argument, or a part of a reply."""

    name: str
    type: str
    optional: bool = False
    many: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """A key, spelled by the method of `Keys` of that name."""

    name: str
    optional: bool = False
    given: bool = False  # spelled by the caller

    @property
    def params(self) -> tuple[str, ...]:
        """What the method is called with."""
        if self.given:
            return ()
        return tuple(inspect.signature(getattr(Keys, self.name)).parameters)[1:]


@dataclass(slots=True)
class Scope:
    """Keys and arguments that belong together: those of a call, or of an item of its list."""

    keys: list[Key] = field(default_factory=list)
    args: list[Field] = field(default_factory=list)
    params: list[Field] = field(default_factory=list)  # not sent

    @property
    def values(self) -> list[Field]:
        """What a caller gives."""
        return [*self.params, *(arg for arg in self.args if arg.type not in IMPLIED)]


@dataclass(slots=True)
class Items:
    """A list that a call takes."""

    name: str
    type: str  # of an item; "": its only value's
    scope: Scope = field(default_factory=Scope)


@dataclass(slots=True)
class Header:
    """What a script declares."""

    script: str
    summary: str = ""  # the first sentence of its prose
    call: Scope = field(default_factory=Scope)
    lists: list[Items] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    returns: list[Field] = field(default_factory=list)


def scripts() -> list[str]:
    """The names of all scripts, sorted."""
    names = (path.name for path in _folder().iterdir())
    return sorted(name.removesuffix(".lua") for name in names if name.endswith(".lua") and not name.startswith("_"))


@cache
def text_of(script: str) -> str:
    """The text of a script's file."""
    return (_folder() / f"{script}.lua").read_text()


@cache
def header_of(script: str) -> Header:
    """What a script declares."""
    return read_header(script, text_of(script))


def read_header(script: str, text: str) -> Header:
    """What the text of a script declares. Raises `ValueError` for a line that is no declaration."""
    header = Header(script)
    prose = []
    for line in _head(text):
        declared = _LINE.match(line)
        if declared:
            _declare(header, declared[1], declared[2].strip())
        else:
            prose.append(line.removeprefix("--").strip())
    header.summary = " ".join(prose).split(". ")[0].split("  ")[0].rstrip(".") + "."
    return header


def identifier(answer: str) -> str:
    """An answer as a name: "no room" as `no_room`."""
    return answer.replace(" ", "_")


def _declare(header: Header, kind: str, text: str) -> None:
    scope = header.lists[-1].scope if header.lists else header.call
    match kind:
        case "key":
            scope.keys.append(_key(text))
        case "arg":
            scope.args.append(_field(text, ARG_TYPES))
        case "each":
            name, _, item_type = text.partition(": ")
            header.lists.append(Items(name, item_type))
        case "param":
            scope.params.append(_field(text, ARG_TYPES))
        case "answers":
            header.answers += [answer.strip() for answer in text.split("|")]
        case "returns":
            header.returns.append(_field(text, REPLY_TYPES))
        case _:
            raise ValueError(
                f"{header.script}.lua: expected @key, @arg, @param, @each, @answers or @returns, got @{kind}"
            )


def _key(text: str) -> Key:
    name, _, given = text.partition(": ")
    key = Key(name.removesuffix("?"), optional=name.endswith("?"), given=given == "given")
    if not key.given and not hasattr(Keys, key.name):
        raise ValueError(f"expected a method of Keys, or 'name: given', got no key {key.name!r}")
    return key


def _field(text: str, types: frozenset[str]) -> Field:
    parts = _FIELD.match(text)
    if parts is None or parts[2] not in types:
        raise ValueError(f"expected 'name: type  explanation' with a type of {', '.join(sorted(types))}, got {text!r}")
    return Field(parts[1], parts[2], optional=bool(parts[3]), many=bool(parts[4]))


def _head(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.startswith("--"):
            return
        yield line


def _folder() -> Traversable:
    return resources.files("batchmill.ledger") / "scripts"
