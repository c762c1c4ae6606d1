"""What a database keeps of its tables that sinks have made: the job that published last, and the sink's target.

A table without a note is somebody else's, whatever its name: it is never written or dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.errors import StaleToken
from batchmill_worker.stores.base import foreign

if TYPE_CHECKING:
    from psycopg import Connection

    from batchmill_worker.stores.base import Build

NOTES = "batchmill_indexes"
_COLUMNS = "name text primary key, job text not null, target text not null"


def make_notes(db: Connection[Any]) -> None:
    """Make the table of notes and the extension, unless they are there."""
    if None in (db.execute("select to_regtype('vector'), to_regclass(%s)", [NOTES]).fetchone() or (None,)):
        with db.transaction():
            db.execute("select pg_advisory_xact_lock(hashtext(%s))", [NOTES])
            db.execute("create extension if not exists vector")
            db.execute(f"create table if not exists {NOTES} ({_COLUMNS})")


def lock(db: Connection[Any], table: str) -> None:
    """Let no one else change the table, or what is beside it, until the transaction ends."""
    db.execute("select pg_advisory_xact_lock(hashtext(%s))", [f"batchmill {table}"])


def is_published(db: Connection[Any], table: str, build: Build) -> bool:
    """Return whether the job was published already.

    Raises `StaleToken` if a newer one was, `InvalidOutput` if the table is not one that sinks with this target made.
    """
    is_there = db.execute("select to_regclass(%s)", [quoted(table)]).fetchone() != (None,)  # first: its note is older
    query = f"select job, target from {NOTES} where name = %s"  # noqa: S608  # a constant
    found = db.execute(query, [table]).fetchone()
    if found is None:
        if is_there:
            raise foreign(f"the table {table!r}", "its database has a table of that name that no sink has made")
        return False
    if found[1] != build.sink.to:
        why = "its database is reached under two names of stores, and the table was made under the other one"
        raise foreign(f"the table {table!r}", why)
    if found[0] > build.job:
        raise StaleToken(f"job {found[0]} has published rows into {table!r} since.")
    return bool(found[0] == build.job)


def note(db: Connection[Any], table: str, build: Build) -> None:
    """Note that a job has published its rows into a table."""
    db.execute(
        f"insert into {NOTES} values (%s, %s, %s) on conflict (name) do update set job = excluded.job",  # noqa: S608  # a constant
        [table, build.job, build.sink.to],
    )


def quoted(table: str) -> str:
    """Return the name of a table as PostgreSQL reads it."""
    return '"' + table.replace('"', '""') + '"'
