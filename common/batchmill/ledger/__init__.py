"""The ledger: the state of all jobs, in Redis, changed only by Lua scripts."""

from batchmill.ledger.formats.record import JobRecord
from batchmill.ledger.jobs import JobLedger
from batchmill.ledger.ledger import Ledger
from batchmill.ledger.shards import Claim, ShardLedger

__all__ = ["Claim", "JobLedger", "JobRecord", "Ledger", "ShardLedger"]
