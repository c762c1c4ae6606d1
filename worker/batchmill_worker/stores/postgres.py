"""PostgreSQL with the extension pgvector: a table of a database that the settings name.

1. An attempt copies its rows into a table beside the visible one, `TABLE__JOB`, each with the attempt's name.
2. `publish` deletes the rows of attempts that do not count. For `replace` it makes the primary key and the index there,
   and then the table takes the place of the visible one, in one transaction. Otherwise one transaction puts the rows
   into the visible table, after that deletes the former rows of the same documents, and drops the table beside it.
3. The same transaction notes the job and the sink's target in `batchmill_indexes`: a table without a note is somebody
   else's, and is never written or dropped. Whoever writes or publishes for an older job finds the
   newer one there, and a publisher that was cut short finds its own.

Rejected: a fence in each write, by the token of the attempt. Halves of a shard that was split have other names than the
shard, whose rows may be there; that the receipts say which rows count covers both. `PREPARE TRANSACTION` is switched
off by default.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa

from batchmill.errors import InvalidParams, MissingExtra, StaleToken, StorageUnavailable
from batchmill.jobs.sink import GENERATION, ID, INDEX_FROM_ROWS, ROOT, IndexSpec
from batchmill_worker.stores.base import COMPARISONS, DISTANCE, Published, Receipt, cannot_search, twins
from batchmill_worker.stores.base import beside as beside_of
from batchmill_worker.stores.filters import check_columns, terms_of
from batchmill_worker.stores.postgres_copy import copied
from batchmill_worker.stores.postgres_notes import is_published, lock, make_notes, note, quoted
from batchmill_worker.stores.postgres_types import arrow_type, refused_values, type_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt
    from psycopg import Connection
    from psycopg.sql import Composable, Composed

    from batchmill.jobs.sink import SinkSpec
    from batchmill.operators.contract import RowError
    from batchmill.storage.named_stores import NamedStore
    from batchmill_worker.stores.base import Build, Where

log = logging.getLogger(__name__)

PART = "_part"
"""The column of the table beside: the attempt that wrote a row."""

CONNECT_TIMEOUT_S = 10
MAX_INDEXED_DIMENSION = 2_000  # pgvector's limit
BUILD_MEMORY = "512MB"
SEARCHED = 100  # candidates that a search considers
_OPERATORS = {"cosine": ("<=>", "vector_cosine_ops"), "l2": ("<->", "vector_l2_ops"), "dot": ("<#>", "vector_ip_ops")}
_AWAY = ("08", "40", "53", "57P", "58")
"""Classes of SQL states: no connection, a deadlock, no resources, shut down, a system error."""


class PostgresStore:
    """A table of one database; see `Store`."""

    def __init__(self, store: NamedStore, table: str) -> None:
        self._store = store
        self._table = table

    def schema(self) -> pa.Schema | None:
        """See `Store`. Only what PostgreSQL keeps of it: the columns, and the length of the vectors."""
        with self._connected() as db:
            return _schema_of(db, self._table)

    def refused(self, rows: pa.Table) -> dict[int, RowError]:
        """See `Store`."""
        return refused_values(rows)

    def write(self, build: Build, part: str, rows: pa.Table) -> Receipt:
        """See `Store`."""
        with self._connected() as db:
            with db.transaction():
                lock(db, self._table)
                if is_published(db, self._table, build):
                    raise StaleToken(f"the rows of this job are in {self._table!r} already.")
                db.execute(_create_table(beside_of(self._table, build.job), build.schema, PART))
            named = rows.append_column(PART, pa.repeat(part, rows.num_rows))
            statement = _copy(beside_of(self._table, build.job), named.column_names)
            with db.transaction(), db.cursor().copy(statement) as copy:
                for data in copied(named):
                    copy.write(data)
        return Receipt(part, rows.num_rows)

    def publish(self, build: Build, receipts: Sequence[Receipt]) -> Published:
        """See `Store`."""
        try:
            return self._publish(build, receipts)
        except StaleToken:  # unless another publisher of the same job was faster
            with self._connected() as db:
                if is_published(db, self._table, build):
                    return _published(db, self._table)
            raise

    def _publish(self, build: Build, receipts: Sequence[Receipt]) -> Published:
        with self._connected() as db:
            if is_published(db, self._table, build):
                return _published(db, self._table)
            beside = beside_of(self._table, build.job)
            _keep_only(db, beside, [receipt.part for receipt in receipts])
            if build.sink.mode == "replace":
                rows = sum(receipt.rows for receipt in receipts)
                return _published(db, self._table, self._replace(db, build, beside, rows), rows)
            return _published(db, self._table, self._upsert(db, build, beside))

    def search(
        self, sink: SinkSpec, vector: npt.NDArray[np.float32], k: int, where: Where, columns: Sequence[str] | None
    ) -> pa.Table:
        """See `Store`."""
        sql = _psycopg().sql
        with self._connected() as db:
            known = _schema_of(db, self._table)
            if known is None:
                raise InvalidParams(f"there is no table {self._table!r}.")
            names = [name for name in known.names if name != sink.vector] if columns is None else list(columns)
            check_columns([*names, *where], known.names)
            conditions, values = _conditions(where)
            distance = sql.SQL("{} {} %s").format(sql.Identifier(sink.vector), sql.SQL(_OPERATORS[sink.metric][0]))
            query = sql.SQL("select {}, {} as {} from {} {} order by {} limit %s").format(
                sql.SQL(", ").join(map(sql.Identifier, names)),
                distance,
                sql.Identifier(DISTANCE),
                sql.Identifier(self._table),
                conditions,
                distance,
            )
            with db.transaction():
                db.execute(sql.SQL("set local hnsw.ef_search = {}").format(max(SEARCHED, min(k, 1_000))))
                db.execute("set local hnsw.iterative_scan = strict_order")
                found = _found(db, query, [vector, *values, vector, k])
        rows = [dict(zip([*names, DISTANCE], map(_shown, row), strict=True)) for row in found]
        return pa.Table.from_pylist(rows) if rows else pa.table({name: pa.nulls(0) for name in [*names, DISTANCE]})

    def _replace(self, db: Connection[Any], build: Build, beside: str, rows: int) -> int:
        sql = _psycopg().sql
        with db.transaction():
            _make_key(db, build, beside)
        with db.transaction():
            self._index(db, build, beside, rows)
        with db.transaction():
            lock(db, self._table)
            is_published(db, self._table, build)
            deleted = _count(db, self._table)
            db.execute(sql.SQL("drop table if exists {}").format(sql.Identifier(self._table)))
            db.execute(sql.SQL("alter table {} rename to {}").format(*map(sql.Identifier, (beside, self._table))))
            note(db, self._table, build)
        return deleted

    def _upsert(self, db: Connection[Any], build: Build, beside: str) -> int:
        sql = _psycopg().sql
        table, names = sql.Identifier(self._table), [*map(sql.Identifier, build.schema.names)]
        with db.transaction():
            lock(db, self._table)
            is_published(db, self._table, build)
            _refuse_twins(db, build, beside)
            db.execute(_create_table(self._table, build.schema))
            if not _has_key(db, self._table):
                db.execute(sql.SQL("alter table {} add primary key ({})").format(table, sql.Identifier(ID)))
            changes = [sql.SQL("{} = excluded.{}").format(name, name) for name in names]
            db.execute(
                sql.SQL("insert into {} ({}) select {} from {} on conflict ({}) do update set {}").format(
                    table,
                    sql.SQL(", ").join(names),
                    sql.SQL(", ").join(names),
                    sql.Identifier(beside),
                    sql.Identifier(ID),
                    sql.SQL(", ").join(changes),
                )
            )
            deleted = self._delete_former(db, build, beside)
            self._index(db, build, self._table, _count(db, self._table))
            db.execute(sql.SQL("drop table {}").format(sql.Identifier(beside)))
            note(db, self._table, build)
        return deleted

    def _delete_former(self, db: Connection[Any], build: Build, beside: str) -> int:
        """Delete the rows that the new ones leave over; return how many."""
        sql = _psycopg().sql
        if build.sink.mode == "amend":
            return 0
        documents = sql.SQL("and {} in (select {} from {})").format(*map(sql.Identifier, (ROOT, ROOT, beside)))
        deletion = sql.SQL("delete from {} where {} <> %s {}").format(
            sql.Identifier(self._table),
            sql.Identifier(GENERATION),
            sql.SQL("") if build.sink.mode == "mirror" else documents,
        )
        return db.execute(deletion, [build.job]).rowcount

    def _index(self, db: Connection[Any], build: Build, table: str, rows: int) -> None:
        """Build the index that the sink asks for; one that is there grows with the table."""
        sink, sql = build.sink, _psycopg().sql
        wanted = isinstance(sink.index, IndexSpec) or (sink.index == "auto" and rows >= INDEX_FROM_ROWS)
        if not wanted or build.dimension > MAX_INDEXED_DIMENSION or _index_kind(db, table) != "none":
            return
        spec = sink.index if isinstance(sink.index, IndexSpec) else IndexSpec()
        db.execute(sql.SQL("set local maintenance_work_mem = {}").format(sql.Literal(BUILD_MEMORY)))
        db.execute(
            sql.SQL("create index on {} using hnsw ({} {}) with (m = {}, ef_construction = {})").format(
                sql.Identifier(table),
                sql.Identifier(sink.vector),
                sql.SQL(_OPERATORS[sink.metric][1]),
                sql.Literal(spec.m),
                sql.Literal(spec.ef_construction),
            )
        )

    def _connect(self) -> Connection[Any]:
        psycopg = _psycopg()
        try:
            connection: Connection[Any] = psycopg.connect(
                self._store.url,
                password=self._store.password(),
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name="batchmill",
            )
            return connection
        except psycopg.OperationalError as error:  # it names the server and its user, which are no tenant's business
            log.warning("no connection for the table %r: %s", self._table, _first_line(error))
            raise StorageUnavailable(
                f"could not connect to the database of the table {self._table!r}.",
                hint="The log of the worker says why.",
            ) from None

    @contextmanager
    def _connected(self) -> Iterator[Connection[Any]]:
        psycopg = _psycopg()
        try:
            with self._connect() as db:
                _prepare(db)
                yield db
        except psycopg.errors.UndefinedTable as error:
            raise StaleToken(f"the rows of this job in {self._table!r} were published or dropped meanwhile.") from error
        except psycopg.Error as error:
            state = error.sqlstate or ("08" if isinstance(error, psycopg.OperationalError) else "")
            if state.startswith(_AWAY):
                raise StorageUnavailable(f"could not use the table {self._table!r}: {_first_line(error)}") from error
            raise


def _found(db: Connection[Any], query: Composed, values: list[Any]) -> list[tuple[Any, ...]]:
    """Return the rows of a search that have a distance: those of zeros have none, whose direction is compared."""
    psycopg = _psycopg()
    try:
        rows = db.execute(query, values).fetchall()
    except (psycopg.DataError, psycopg.ProgrammingError) as error:  # a value of a filter is not of the column's type
        raise cannot_search(_first_line(error)) from error
    return [row for row in rows if row[-1] is not None and math.isfinite(row[-1])]


def _shown(value: Any) -> Any:
    """Return a value as Arrow takes it: a vector is a list, an id a text."""
    if isinstance(value, UUID):
        return str(value)
    return value.to_list() if hasattr(value, "to_list") else value


def _prepare(db: Connection[Any]) -> None:
    """Make what the store needs, and teach the connection to read and write vectors."""
    from pgvector.psycopg import register_vector

    make_notes(db)
    register_vector(db)


def _published(db: Connection[Any], table: str, deleted: int = 0, rows: int | None = None) -> Published:
    return Published(_count(db, table) if rows is None else rows, deleted, _index_kind(db, table))


def _keep_only(db: Connection[Any], beside: str, parts: list[str]) -> None:
    """Delete the rows of attempts that do not count, and the column that names attempts; do nothing if it is gone."""
    sql = _psycopg().sql
    with db.transaction():
        db.execute(sql.SQL("lock table {} in access exclusive mode").format(sql.Identifier(beside)))
        if _has_column(db, beside, PART):
            deletion = sql.SQL("delete from {} where not ({} = any(%s))")
            db.execute(deletion.format(*map(sql.Identifier, (beside, PART))), [parts])
            db.execute(sql.SQL("alter table {} drop column {}").format(*map(sql.Identifier, (beside, PART))))


def _make_key(db: Connection[Any], build: Build, table: str) -> None:
    sql = _psycopg().sql
    if _has_key(db, table):
        return
    try:
        with db.transaction():
            db.execute(sql.SQL("alter table {} add primary key ({})").format(*map(sql.Identifier, (table, ID))))
    except _psycopg().errors.UniqueViolation:  # looking for twins first would sort all rows once more
        _refuse_twins(db, build, table)
        raise


def _refuse_twins(db: Connection[Any], build: Build, table: str) -> None:
    """Raise `InvalidRows` if two rows have one id, which only a column of the user's can give them."""
    sql = _psycopg().sql
    query = sql.SQL("select min({}) from {} group by {} having count(*) > 1 limit 1")
    found = db.execute(query.format(*map(sql.Identifier, (ROOT, table, ID)))).fetchone()
    if found is not None:
        raise twins(build, found[0])


def _has_key(db: Connection[Any], table: str) -> bool:
    query = "select 1 from pg_index where indrelid = to_regclass(%s) and indisprimary"
    return db.execute(query, [quoted(table)]).fetchone() is not None


def _has_column(db: Connection[Any], table: str, column: str) -> bool:
    query = "select 1 from pg_attribute where attrelid = to_regclass(%s) and attname = %s and not attisdropped"
    return db.execute(query, [quoted(table), column]).fetchone() is not None


def _index_kind(db: Connection[Any], table: str) -> str:
    query = """select 1 from pg_index join pg_class on pg_class.oid = indexrelid join pg_am on pg_am.oid = relam
        where indrelid = to_regclass(%s) and amname = 'hnsw'"""
    return "hnsw" if db.execute(query, [quoted(table)]).fetchone() is not None else "none"


def _count(db: Connection[Any], table: str) -> int:
    if db.execute("select to_regclass(%s)", [quoted(table)]).fetchone() == (None,):
        return 0
    sql = _psycopg().sql
    (rows,) = db.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(table))).fetchone() or (0,)
    return int(rows)


def _create_table(table: str, schema: pa.Schema, *more: str) -> Composed:
    sql = _psycopg().sql
    columns: list[Composable] = [
        sql.SQL("{} {}").format(sql.Identifier(field.name), sql.SQL(type_of(field)[0])) for field in schema
    ]
    columns += [sql.SQL("{} text").format(sql.Identifier(name)) for name in more]
    statement: Composed = sql.SQL("create table if not exists {} ({})").format(
        sql.Identifier(table), sql.SQL(", ").join(columns)
    )
    return statement


def _copy(table: str, names: Sequence[str]) -> Composed:
    sql = _psycopg().sql
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    statement: Composed = sql.SQL("copy {} ({}) from stdin with (format binary)").format(sql.Identifier(table), columns)
    return statement


def _schema_of(db: Connection[Any], table: str) -> pa.Schema | None:
    query = """select attname, format_type(atttypid, atttypmod) from pg_attribute
        where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped order by attnum"""
    found = db.execute(query, [quoted(table)]).fetchall()
    return pa.schema([(name, arrow_type(kind)) for name, kind in found]) if found else None


def _conditions(where: Where) -> tuple[Composable, list[Any]]:
    sql = _psycopg().sql
    terms: list[Composable] = []
    values: list[Any] = []
    for term in terms_of(where):
        name = sql.Identifier(term.column)
        if term.value is None:
            terms.append(sql.SQL("{} is null" if term.comparison == "eq" else "{} is not null").format(name))
        elif term.comparison == "in":
            terms.append(sql.SQL("{} = any(%s::uuid[])" if term.column == ID else "{} = any(%s)").format(name))
            values.append(list(term.value))
        else:
            terms.append(sql.SQL("{} {} %s").format(name, sql.SQL(COMPARISONS[term.comparison])))
            values.append(term.value)
    return (sql.SQL("where {}").format(sql.SQL(" and ").join(terms)) if terms else sql.SQL("")), values


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _psycopg() -> Any:
    try:
        import pgvector
        import psycopg
        import psycopg.sql
    except ImportError as error:
        raise MissingExtra(
            "the client of PostgreSQL is not installed on this worker.", hint="pip install 'batchmill[postgres]'"
        ) from error
    del pgvector
    return psycopg
