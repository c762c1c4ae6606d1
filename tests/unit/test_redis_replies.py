"""Error replies of Redis are classed: what passes, what is refused, and what is a bug."""

from __future__ import annotations

import pytest
import redis

from batchmill.errors import LedgerRefused, ServiceUnavailable
from batchmill.ledger.scripting.connection import redis_errors
from batchmill.redis_access.replies import ReplyKind, classify

AWAY, REFUSED, BUG = ReplyKind.AWAY, ReplyKind.REFUSED, ReplyKind.BUG


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ("LOADING Redis is loading the dataset in memory", AWAY, "LOADING"),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL.", AWAY, "BUSY"),
        ("UNKILLABLE Sorry the script already executed write commands", AWAY, "UNKILLABLE"),
        ("READONLY You can't write against a read only replica. script: 1f, on @user_script:4.", AWAY, "READONLY"),
        ("ERR Error running script (call to f_1): @user_script:4: -READONLY You can't write", AWAY, "READONLY"),
        ("UNBLOCKED force unblock from blocking operation, instance state changed", AWAY, "UNBLOCKED"),
        ("MASTERDOWN Link with MASTER is down", AWAY, "MASTERDOWN"),
        ("NOREPLICAS Not enough good replicas to write.", AWAY, "NOREPLICAS"),
        ("OOM command not allowed when used memory > 'maxmemory'.", AWAY, "OOM"),
        ("MISCONF Errors writing to the AOF file: No space left on device", AWAY, "MISCONF"),
        ("CLUSTERDOWN Hash slot not served", AWAY, "CLUSTERDOWN"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", AWAY, "TRYAGAIN"),
        ("EXECABORT Transaction discarded because of previous errors.", AWAY, "EXECABORT"),
        ("NOSCRIPT No matching script.", AWAY, "NOSCRIPT"),
        ("ERR max number of clients reached", AWAY, "ERR"),
        ("ERR Error running script: Script killed by user with SCRIPT KILL", AWAY, "ERR"),
        ("NOAUTH Authentication required.", REFUSED, "NOAUTH"),
        ("WRONGPASS invalid username-password pair or user is disabled.", REFUSED, "WRONGPASS"),
        ("NOPERM User mill has no permissions to run the 'evalsha' command", REFUSED, "NOPERM"),
        ("DENIED Redis is running in protected mode", REFUSED, "DENIED"),
        ("MOVED 866 127.0.0.1:7001", REFUSED, "MOVED"),
        ("ASK 866 127.0.0.1:7001", REFUSED, "ASK"),
        ("CROSSSLOT Keys in request don't hash to the same slot", REFUSED, "CROSSSLOT"),
        ("ERR ACL failure in script: No permissions to access a channel script: on @user_script:39.", REFUSED, "ERR"),
        ("ERR unknown command 'evalsha', with args beginning with: ", REFUSED, "ERR"),
        ("ERR DB index is out of range", REFUSED, "ERR"),
        ("ERR Client sent AUTH, but no password is set", REFUSED, "ERR"),
        ("ERR wrong number of arguments for 'get' command", BUG, "ERR"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", BUG, "WRONGTYPE"),
        ("ERR user_script:3: a completed job cannot become running", BUG, "ERR"),
    ],
)
def test_a_reply_is_classed_by_its_code_or_text(text: str, kind: ReplyKind, code: str) -> None:
    reply = classify(text)
    assert (reply.kind, reply.code) == (kind, code)
    assert reply.kind is BUG or reply.hint


def test_what_is_not_permitted_is_named() -> None:
    reply = classify("NOPERM User mill has no permissions to access the 'batchmill:events' channel")
    assert "the 'batchmill:events' channel" in reply.hint


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (redis.ConnectionError("Error 111 connecting to localhost:6379. Connection refused."), ServiceUnavailable),
        (redis.TimeoutError("Timeout reading from socket"), ServiceUnavailable),
        (redis.AuthenticationError("invalid username-password pair", status_code="WRONGPASS"), LedgerRefused),
        (redis.exceptions.NoScriptError("No matching script.", status_code="NOSCRIPT"), ServiceUnavailable),
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"), ServiceUnavailable),
        (redis.ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), LedgerRefused),
        (redis.ResponseError("WRONGTYPE Operation against a key"), redis.ResponseError),
        (redis.DataError("Invalid input of type: 'dict'"), redis.DataError),
    ],
)
def test_errors_of_the_library_become_those_of_the_ledger_unless_they_are_bugs(
    error: redis.RedisError, expected: type[Exception]
) -> None:
    with pytest.raises(expected) as raised, redis_errors():
        raise error
    assert type(raised.value) is expected
