"""`chat` that writes to a journal which process rendered and answered which row; one row ends its process."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchmill.operators.contract import OperatorKind
from batchmill.operators.registration import operator
from batchmill_worker.generation import params  # noqa: TC001  # types of parameters are read as it runs
from batchmill_worker.generation.language_model import LOGPROBS, MADE, PARTS, TOOL_CALLS
from batchmill_worker.operators.chat import Chat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.columns.lineage import Path as RowPath
    from batchmill_worker.generation.base import Answer, Generation

POISON = "a deadly text"


@operator("bench_chat", makes=(*MADE, LOGPROBS, TOOL_CALLS, PARTS), cacheable=False, kind=OperatorKind.REQUEST)
class JournalChat(Chat):
    """`chat` over the column `body` of rows with an `id`."""

    def __init__(
        self,
        *,
        model: params.Model,
        journal: str,
        max_tokens: params.MaxTokens = 128,
        temperature: params.Temperature = 0.0,
        seed: params.Seed = None,
        options: params.Options = None,
        context: params.Context = None,
        places: params.Places = 8,
        threads: params.Threads = None,
    ) -> None:
        super().__init__(
            model=model,
            prompt="What is this about? {body}",
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            options=options,
            context=context,
            places=places,
            threads=threads,
        )
        self._journal = journal
        self._rows: dict[int, int] = {}

    def render(self, row: Mapping[str, Any], path: RowPath, failures: int) -> Sequence[Generation]:
        """Note the row; its process does not live on if it is the poison."""
        if row["body"] == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        made = super().render(row, path, failures)
        self._rows[made[0].seed] = row["id"]
        return made

    def result(self, generations: Sequence[Generation], answers: Sequence[Answer]) -> dict[str, Any]:
        """Note that the row is answered."""
        with Path(self._journal).open("a") as file:
            file.write(f"{os.getpid()} {self._rows[generations[0].seed]}\n")
        return super().result(generations, answers)
