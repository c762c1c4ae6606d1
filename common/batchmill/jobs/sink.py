"""A sink: the store that the rows of a job go into, and the two stages of the job that write it.

1. The stage `store` writes the rows of committed parts into the store, where nobody sees them yet, or where writing
   them again changes nothing. It makes one receipt of each shard.
2. The stage `publish` has one shard, with all receipts: it makes the rows of the attempts that count visible, deletes
   what they replace, and builds the index.
3. In a job over a stream, `publish` has a shard for each one of `store`. They run one after the other: each makes the
   rows of one visible, as if it were a job of its own (`step_of`).
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from batchmill.jobs.ids import later_id

RESERVED_OPERATORS = "batchmill."
"""How the names of operators begin that only the service itself runs."""

STORE_OPERATOR = f"{RESERVED_OPERATORS}store"
PUBLISH_OPERATOR = f"{RESERVED_OPERATORS}publish"
SEARCH_OPERATOR = f"{RESERVED_OPERATORS}search"
SPANS_OPERATOR = "embed_spans"
"""The operator whose rows have vectors of spans. It gives a search the vector of its complete text."""

SHARD_ROWS = 10_000
"""The least rows of a shard that is written, while more are to come: stores are fast with large writes."""

INDEX_FROM_ROWS = 20_000
"""An index that is left to the service is built from this many rows on; fewer are compared one by one."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
TABLE_PATTERN = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63}):([A-Za-z_][A-Za-z0-9_]{0,39})")
"""A table of a named store: `STORE:TABLE`."""

_KEPT_TABLES = re.compile(r"pg_|batchmill_|.*__[0-9a-z]{20}$")
"""Tables of the database itself, of the service, and those beside a table, in which a job collects its rows."""

ID, ROOT, GENERATION = OWN_COLUMNS = ("_id", "_root", "_generation")
"""The columns that stored rows have besides those of the job: their id, their document, and the job that wrote them."""

LANCE_ENDING, USEARCH_ENDING = FOLDER_ENDINGS = (".lance", ".usearch")
"""How the paths of sinks that are folders end."""

Mode = Literal["replace", "upsert", "mirror", "amend"]
"""What becomes of the rows that are there: see `SinkSpec.mode`. `amend` is for replays: rows go in by their ids."""

Metric = Literal["cosine", "l2", "dot"]
STAGES = ("store", "publish")
"""What the stages of a sink are called."""


class _Value(BaseModel):
    """A value: compared by content, never changed, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Table(NamedTuple):
    """A table of a store that the service's settings name."""

    store: str
    table: str


class IndexSpec(_Value):
    """A graph over the vectors (HNSW), which finds the nearest ones without comparing all."""

    m: int = Field(default=16, ge=4, le=64)
    """Neighbours of a vector: more give a better recall, and a larger index."""
    ef_construction: int = Field(default=128, ge=16, le=1024)
    """Candidates that are considered while it is built."""


class SinkSpec(_Value):
    """A store for the rows of a job, and how they are put into it."""

    to: str = Field(min_length=1, max_length=4096)
    """A path that ends in `.lance` or `.usearch`, or `STORE:TABLE` with a store that the service's settings name."""
    name: str | None = Field(default=None, pattern=NAME_PATTERN)
    """What the index is called in searches. None: as its file or table."""
    vector: str = Field(default="embedding", min_length=1, max_length=128)
    """The column with the vectors, all of one length."""
    id: str | None = Field(default=None, min_length=1, max_length=128)
    """The column that says which document a row is from. None: the row of the source, by its index."""
    columns: list[str] | None = None
    """Other columns to store. None: all."""
    mode: Mode = "replace"
    """`replace`: the rows of the job take the place of all others at its end. `upsert`: the rows of a document take the
    place of its former ones. `mirror`: also, documents that the job does not have are deleted."""
    metric: Metric = "cosine"
    """How the distance of two vectors is measured."""
    index: Literal["auto", "none"] | IndexSpec = "auto"
    """The index that is built. `auto`: none below 20,000 rows."""
    pool: str | None = Field(default=None, pattern=NAME_PATTERN)
    """The pool whose workers write. None: the job's."""
    writers: int = Field(default=2, ge=1, le=64)
    """Shards that are written at the same time, at most."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.table is None and not self.to.endswith(FOLDER_ENDINGS):
            raise ValueError(
                "expected a path that ends in .lance or .usearch, or STORE:TABLE of a store of the service"
            )
        if self.table is not None and _KEPT_TABLES.match(self.table.table):
            raise ValueError(f"{self.table.table!r} is a name for tables of the database or the service")
        if self.vector in OWN_COLUMNS or self.id == self.vector:
            raise ValueError("`vector` must be a column of its own, which no name of a stored row's own columns has")
        if self.mode in ("upsert", "mirror") and self.id is None:
            raise ValueError(f"mode {self.mode!r} needs `id`, the column that says which document a row is from")
        if self.name is None and re.fullmatch(NAME_PATTERN, self.index_name) is None:
            raise ValueError(f"{self.index_name!r} is no name of an index: give one as `name`")
        return self

    @property
    def table(self) -> Table | None:
        """The store and the table; None: a path."""
        found = TABLE_PATTERN.fullmatch(self.to)
        return None if found is None else Table(found[1], found[2])

    @property
    def index_name(self) -> str:
        """What the index is called."""
        return self.name or (self.table.table if self.table else PurePosixPath(self.to).stem)


IndexName = Annotated[str, Field(pattern=NAME_PATTERN)]


def step_of(job: str, shard: int) -> str:
    """Return the id under which a job over a stream writes and publishes the rows of a shard of `store`."""
    return later_id(job, shard + 1)


def sink_stages(sink: SinkSpec, shared: dict[str, Any], *, in_steps: bool = False) -> list[dict[str, Any]]:
    """Return the fields of the stages that write a sink. shared: those that hold for each stage of the job.

    in_steps: whether rows are published while the job runs.
    """
    params: dict[str, Any] = {"sink": sink.model_dump(mode="json", exclude={"pool", "writers"})}
    if in_steps:
        params["in_steps"] = True
    common = {"pool": sink.pool or shared["pool"], "retry": shared["retry"], "carry": []}
    return [
        {
            "operator": STORE_OPERATOR,
            "name": STAGES[0],
            "params": {**params, "vector": sink.vector},
            "min_shard_rows": SHARD_ROWS,
            "max_at_once": sink.writers,
            "rows_together": in_steps,
            **common,
        },
        {
            "operator": PUBLISH_OPERATOR,
            "name": STAGES[1],
            "params": params,
            "takes_all": not in_steps,
            "in_turn": in_steps,
            **common,
        },
    ]


def amending(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a stage of a sink for a replay: its rows are added to what is there."""
    return {**params, "sink": {**params["sink"], "mode": "amend"}}
