"""What an error reply of Redis means for Batchmill: one table. Pure.

away      the server cannot do it now: a failover, no memory, no disk, loading. Everything asks again by itself.
refused   the server will not do it until somebody changes a setting or a permission. Everything asks again too, but the
          message names what to change, and a process that starts does not start.
bug       neither: Batchmill asked for something wrong, which stays an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class ReplyKind(StrEnum):
    """The class of an error reply."""

    AWAY = "away"
    REFUSED = "refused"
    BUG = "bug"


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error reply, classed. reason: a clause about the server; hint: what to do."""

    kind: ReplyKind
    code: str
    reason: str
    hint: str = ""


ITSELF = "It is tried again; nothing need be done unless it lasts."
PASSWORD = "Correct the user name and password in BATCHMILL_REDIS_URL, or the password of the server."  # noqa: S105  # is none
CLUSTER = "Name a single Redis or Valkey server; a Redis Cluster is not supported."
TAG = (
    "All keys must be in one slot: set BATCHMILL_REDIS_PREFIX={batchmill}: for every service, braces included, and "
    "name the server that has that slot. A Redis Cluster of several shards is not supported beyond that."
)
ACL = (
    "Allow it with ACL SETUSER: the keys ~PREFIX* of BATCHMILL_REDIS_PREFIX, all channels (&*), and the commands "
    "+@all -@admin -@dangerous +info +client; behind sentinels +role, too."
)

AWAY: dict[str, tuple[str, str]] = {
    "LOADING": ("is loading its data", ITSELF),
    "BUSY": ("is busy with a script", ITSELF),
    "UNKILLABLE": ("is busy with a script that writes", ITSELF),
    "READONLY": ("is a read-only replica, as in a failover", "Check which server is the primary if it lasts."),
    "UNBLOCKED": ("has become a replica, as in a failover", ITSELF),
    "REDIRECT": ("is no longer the primary, as in a failover", ITSELF),
    "MASTERDOWN": ("is a replica without its primary", "Check the primary, or promote the replica."),
    "NOMASTERLINK": ("is a replica without its primary", "Check the primary, or promote the replica."),
    "NOREPLICAS": ("has too few replicas to take writes", "Check its replicas, or min-replicas-to-write."),
    "OOM": ("is out of memory", "Give it more memory (maxmemory), or delete ended jobs."),
    "MISCONF": ("cannot write to its disk and takes no writes", "Make room on its disk; its log has the reason."),
    "CLUSTERDOWN": ("belongs to a cluster that is down", CLUSTER),
    "TRYAGAIN": ("belongs to a cluster that is moving keys", CLUSTER),
    "EXECABORT": ("dropped a transaction", ITSELF),
    "NOSCRIPT": ("lost the scripts it had", ITSELF),
    "INPROG": ("is in a failover", ITSELF),
    "IOERR": ("lost a connection to another server", ITSELF),
}

UNEXECUTED = frozenset(
    {
        "LOADING",
        "BUSY",
        "UNKILLABLE",
        "READONLY",
        "MASTERDOWN",
        "NOMASTERLINK",
        "NOREPLICAS",
        "OOM",
        "MISCONF",
        "CLUSTERDOWN",
        "NOAUTH",
        "WRONGPASS",
    }
)
"""Codes after which nothing was executed: a server checks for them before the first write of a script, not later."""

REFUSED: dict[str, tuple[str, str]] = {
    "NOAUTH": ("requires a password", "Put it into BATCHMILL_REDIS_URL: redis://:PASSWORD@host:port/db."),
    "WRONGPASS": ("does not accept this user name and password", PASSWORD),
    "NOPERM": ("does not allow this user", ACL),
    "DENIED": (
        "is in protected mode and refuses other machines",
        "Set a password on the server, or protected-mode no.",
    ),
    "MOVED": ("is a node of a Redis Cluster", TAG),
    "ASK": ("is a node of a Redis Cluster", CLUSTER),
    "CROSSSLOT": ("is a node of a Redis Cluster", TAG),
}

TEXTS: tuple[tuple[str, ReplyKind, str, str], ...] = (
    ("max number of clients", ReplyKind.AWAY, "has as many clients as it takes", "Raise maxclients if it lasts."),
    ("killed by user", ReplyKind.AWAY, "ended a script on somebody's command", ITSELF),
    ("invalid password", ReplyKind.REFUSED, "does not accept this password", PASSWORD),
    ("AUTH <password> called without any password", ReplyKind.REFUSED, "has no password, one was sent", PASSWORD),
    ("Client sent AUTH, but no password is set", ReplyKind.REFUSED, "has no password, one was sent", PASSWORD),
    ("ACL failure in script", ReplyKind.REFUSED, "does not allow this user", ACL),
    ("operation not permitted", ReplyKind.REFUSED, "requires a password", PASSWORD),
    ("unknown command", ReplyKind.REFUSED, "lacks a command", "Undo its rename-command in the server's settings."),
    (
        "DB index is out of range",
        ReplyKind.REFUSED,
        "has no such database",
        "Correct the database in BATCHMILL_REDIS_URL.",
    ),
    ("SELECT is not allowed in cluster mode", ReplyKind.REFUSED, "is a node of a Redis Cluster", CLUSTER),
)
"""Replies that have only the code ERR."""

_CODE = re.compile(r"[A-Z][A-Z0-9]+")
_IN_SCRIPT = re.compile(r"-([A-Z][A-Z0-9]+) ")  # Redis before 7 wraps the reply of a command that a script calls


def classify(text: str) -> ErrorReply:
    """Class an error reply by its text, code included."""
    first = text.split(" ", 1)[0].lstrip("-")
    code = first if _CODE.fullmatch(first) else "ERR"
    nested = _IN_SCRIPT.search(text) if code == "ERR" else None
    if nested is not None and (nested[1] in AWAY or nested[1] in REFUSED):
        code = nested[1]
    if code in AWAY:
        return ErrorReply(ReplyKind.AWAY, code, *AWAY[code])
    if code in REFUSED:
        reason, hint = REFUSED[code]
        return ErrorReply(ReplyKind.REFUSED, code, reason, f"{_permission(text)}{hint}")
    for words, kind, reason, hint in TEXTS:
        if words in text:
            return ErrorReply(kind, code, reason, hint)
    return ErrorReply(ReplyKind.BUG, code, f"answered {text!r}")


def _permission(text: str) -> str:
    """What exactly was not permitted, where the server says so."""
    found = re.search(r"(?:permissions? to |can't |to access ).*", text)
    return f"The server says: {found[0].rstrip('.')}. " if found else ""
