"""What is answered at once: calls, which are rows for an operator that a worker has loaded, and searches."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow as pa
from pydantic import ValidationError

from batchmill.client.connection.transport import BufferPayload
from batchmill.columns import rows_of
from batchmill.errors import InvalidRequest, ModelNotLoaded
from batchmill.jobs.lane import CallRequest
from batchmill.jobs.search import SearchRequest, SearchResult
from batchmill.wording import fault_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.client.connection.transport import Transport
    from batchmill.jobs.search import SearchHit

ARROW = "application/vnd.apache.arrow.stream"
LOAD_INTERVAL_S = 0.5
"""How often a call asks again whether its operator is loaded."""


class InteractiveCalls:
    """What a client asks for at once. A part of `AsyncClient`."""

    _transport: Transport

    async def call(
        self,
        operator: str,
        rows: Sequence[Mapping[str, Any]],
        params: Mapping[str, Any] | None = None,
        *,
        pool: str | None = None,
        timeout: float | None = 300.0,  # noqa: ASYNC109  # as `wait` has it
    ) -> list[dict[str, Any]]:
        """Have rows answered at once, without a job: by a worker that has the operator loaded with these parameters.

        If none has, one loads it first, and the call waits for that.

        Args:
            operator: Name of an operator that the service's workers have loaded.
            rows: The rows, at most 2,048, with values that JSON has.
            params: The operator's parameters.
            pool: The pool of workers. None: the default one.
            timeout: How long to wait for the operator to be loaded, in seconds. None: without limit.

        Returns:
            What the operator makes of the rows, in their order.

        Raises:
            InvalidRequest: The request is wrong, or a row failed (`InvalidRows`): the others' results are dropped.
            TooManyRequests: Too many requests wait already.
            ModelNotLoaded: The operator was not loaded in time.
            OperatorFailed: The operator cannot be loaded, or fails.
        """
        body = BufferPayload(memoryview(_encoded(rows, params, pool)), "application/json")
        loop = asyncio.get_running_loop()
        ends_at = None if timeout is None else loop.time() + timeout
        path = f"/v1/operators/{quote(operator, safe='')}/call"
        while True:
            try:
                answer = await self._transport.call("POST", path, body=body, accept=ARROW, retry=False)
            except ModelNotLoaded:
                if ends_at is not None and loop.time() > ends_at:
                    raise
                await asyncio.sleep(LOAD_INTERVAL_S)
            else:
                return rows_of(pa.ipc.open_stream(answer.body).read_all())

    async def search(
        self,
        index: str,
        text: str | None = None,
        *,
        vector: Sequence[float] | None = None,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        model: str | None = None,
    ) -> list[SearchHit]:
        """Find the rows of an index that are nearest to a text or a vector.

        Args:
            index: The name of the index.
            text: A text, which is embedded as the rows of the index were.
            vector: Or a vector.
            k: How many rows to find, at most.
            where: A filter: for each column a value, or comparisons such as `{"gte": 2020, "in": [1, 2]}`.
            columns: The columns of the rows to return. None: all but the vectors.
            model: The model that you expect: an index of another one is refused.

        Returns:
            The rows with their ids and distances, the nearest first.

        Raises:
            NotFound: There is no such index.
            InvalidRequest: The search does not fit the index.
        """
        try:
            request = SearchRequest(
                text=text,
                vector=None if vector is None else [float(number) for number in vector],
                k=k,
                where=dict(where or {}),
                columns=None if columns is None else list(columns),
                model=model,
            )
        except ValidationError as error:
            raise InvalidRequest(f"search: {fault_of(error.errors()[0])}") from error
        answer = await self._transport.json("POST", f"/v1/indexes/{quote(index, safe='')}/search", body=request)
        return self._transport.parse(SearchResult, answer).hits


def _encoded(rows: Sequence[Mapping[str, Any]], params: Mapping[str, Any] | None, pool: str | None) -> bytes:
    given = {"pool": pool} if pool is not None else {}
    try:
        request = CallRequest(rows=[dict(row) for row in rows], params=dict(params or {}), **given)
        return json.dumps(request.model_dump(exclude_defaults=True)).encode()
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidRequest(f"{'.'.join(map(str, first['loc']))}: {fault_of(first)}.") from error
    except TypeError as error:
        raise InvalidRequest(f"rows and params of a call have only values that JSON has ({error}).") from error
