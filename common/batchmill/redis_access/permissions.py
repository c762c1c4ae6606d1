"""What the user of Redis must be allowed: every command that ledger and broker send, tried without being run.

A server checks permissions when it queues a command of a transaction, so a transaction that is dropped changes nothing.
ROLE is not among them: connections behind sentinels send it first of all, others never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.redis_access.connections import ServerUnavailable
from batchmill.redis_access.replies import ReplyKind

if TYPE_CHECKING:
    import redis

KEY, CHANNEL, PATTERN = "KEY", "CHANNEL", "PATTERN"
COMMANDS = """
    GET KEY/SET KEY 0/INCR KEY/DEL KEY/UNLINK KEY/EXISTS KEY/EXPIRE KEY 1/PEXPIRE KEY 1/PTTL KEY
    HGET KEY f/HSET KEY f 0/HSETNX KEY f 0/HMGET KEY f/HGETALL KEY/HINCRBY KEY f 1/HDEL KEY f/HLEN KEY/HEXISTS KEY f
    HKEYS KEY/HVALS KEY/HSTRLEN KEY f
    SADD KEY m/SREM KEY m/SMEMBERS KEY/SMISMEMBER KEY m/SRANDMEMBER KEY/SCARD KEY
    ZADD KEY 0 m/ZREM KEY m/ZSCORE KEY m/ZMSCORE KEY m/ZRANGE KEY 0 0/ZREVRANGE KEY 0 0/ZRANGEBYSCORE KEY 0 0
    ZREVRANGEBYSCORE KEY 0 0/ZREVRANK KEY m/ZCARD KEY/ZCOUNT KEY 0 0/ZSCAN KEY 0/ZUNIONSTORE KEY 1 KEY
    ZPOPMIN KEY
    LPUSH KEY 0/RPUSH KEY 0/LPOP KEY/RPOP KEY/BLPOP KEY 1/BRPOP KEY 1/BLMPOP 1 1 KEY LEFT/LLEN KEY/LRANGE KEY 0 0
    LREM KEY 0 0/LPOS KEY 0/LTRIM KEY 0 0
    XADD KEY * f 0/XRANGE KEY - +/XREVRANGE KEY + -/XREAD STREAMS KEY 0/XDEL KEY 0-1/XTRIM KEY MAXLEN 0/XINFO STREAM KEY
    EVALSHA 0 1 KEY/SCRIPT LOAD return/SCRIPT EXISTS 0/PUBLISH CHANNEL 0/SUBSCRIBE CHANNEL/PSUBSCRIBE PATTERN
    UNSUBSCRIBE/PUNSUBSCRIBE/SCAN 0/TIME/PING/INFO memory
"""


def checked_commands(prefix: str, channel: str) -> list[list[str]]:
    """The commands that are tried, with their arguments. channel: one that the ledger uses.

    Celery subscribes to patterns, which an ACL allows only with all channels (`&*`).
    """
    meant = {KEY: f"{prefix}access", CHANNEL: channel, PATTERN: f"{prefix}celery.*"}
    lines = (command for line in COMMANDS.strip().splitlines() for command in line.strip().split("/"))
    commands = [[meant.get(word, word) for word in line.split(" ")] for line in lines]
    return [["WATCH", meant[KEY]], ["MULTI"], *commands, ["DISCARD"]]


def require_permissions(pool: redis.ConnectionPool, prefix: str, channel: str) -> None:
    """Raise `ServerUnavailable` with the first command, key or channel that the server refuses this user.

    A server that takes no writes at present is not asked further: that passes. Uses a connection of its own, because
    redis-py's clients would try again, and hide the refusal.
    """
    connection: Any = pool.get_connection()
    try:
        connection.send_packed_command([b"".join(connection.pack_commands(checked_commands(prefix, channel)))])
        for _ in checked_commands(prefix, channel):
            connection.read_response()
    except ServerUnavailable as error:
        if error.reply.kind is ReplyKind.REFUSED:
            raise
    finally:
        connection.disconnect()
        pool.release(connection)
