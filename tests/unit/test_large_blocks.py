"""Large blocks of memory go back to the system when they are freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
from pathlib import Path
import pyarrow as pa
from batchmill.processes.large_blocks import return_large_blocks

def anonymous_kb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if "RssAnon" in line).split()[1])

return_large_blocks()
before, small = anonymous_kb(), []
for _ in range(8):
    large = [bytearray(16 << 20), pa.allocate_buffer(8 << 20), pa.allocate_buffer(2 << 20)]
    for block in large:
        memoryview(block).cast("B")[:] = bytes(len(block))
    small.append(bytearray(4096))  # is behind the large blocks, if they are in the heap
    del large, block
print(anonymous_kb() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_blocks_that_were_freed_take_no_memory() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 8 * 1024
