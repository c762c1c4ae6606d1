"""The verdict on the row cache: nothing lies there that nobody knows of, and clearing it leaves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis

from batchmill.ledger import Ledger
from batchmill.ledger.scripting.connection import connect
from batchmill.row_cache import FOLDER, segment_blob
from batchmill_coordinator.roles.cache_sweep import adopt_row_cache
from support.cluster import KEYS
from support.waiting import until

if TYPE_CHECKING:
    from chaos.verdict import Verdict
    from support.cluster import Cluster


def judge_row_cache(verdict: Verdict, cluster: Cluster, *, is_held: bool, was_rolled_back: bool) -> None:
    """Compare the folder with the index, and the index with itself; then empty it.

    is_held: whether nothing is deleted for its age, because a clock has jumped. was_rolled_back: whether the ledger may
    not know the segments that were written last, which the hourly look at the folder finds: it is done here.
    """
    if was_rolled_back:
        with connect(f"unix://{cluster.socket}?db=0") as ours:
            adopt_row_cache(Ledger(ours, KEYS.prefix), cluster.blob_store())
    with redis.Redis(unix_socket_path=str(cluster.socket), socket_timeout=5) as client:
        due = (KEYS.cache_loose(), "-inf", 1)
        until(lambda: is_held or not client.zrangebyscore(*due), "the deletion of segments that made room")
        used, loose = (set(client.zrange(key, 0, -1)) for key in (KEYS.cache_used(), KEYS.cache_loose()))
        segments = client.hgetall(KEYS.cache_segments())
        index = client.hgetall(KEYS.cache_index())
        held = int(client.hget(KEYS.cache_totals(), "bytes") or 0)
    files = {name for name in cluster.stored(FOLDER) if name.endswith(".arrow")}
    records = {name: record.split(b" ", 1) for name, record in segments.items()}
    for what, holds in (
        ("a file in its folder is known to nobody", files <= {segment_blob(name) for name in used | loose}),
        ("a segment has no file", {segment_blob(name) for name in used} <= files),
        ("segments and their times differ", used == segments.keys()),
        ("its bytes do not add up", held == sum(int(nbytes) for nbytes, _ in records.values())),
        ("its rows do not add up", len(index) == sum(len(digests) // 16 for _, digests in records.values())),
        ("the index leads to a segment that is not there", {place[:6] for place in index.values()} <= used),
    ):
        if not holds:
            verdict.broken.append(f"the row cache: {what}")
    cluster.ask(lambda client: client.clear_cache())
    left = cluster.stored(FOLDER)
    if left:
        verdict.broken.append(f"the row cache: files are left when it was emptied: {left[:10]}")
