"""The lines of a batch's file: each is a request, which is validated and becomes rows of the batch's job.

1. The file is read in pieces, and a line is parsed only if it is not too long.
2. A bad line has one fault, with its number from 1; the first `MAX_FAULTS` are kept. One bad line fails the batch.
3. The rows of good lines are written as parts of an upload. Each has, beside the operator's columns, those of `OWN`:
   the line and the input within it, which results carry, and what the answer needs to know of the request.
4. All lines name one model, and set the same parameters of its operator: a job has one of each.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa

from batchmill.errors import InvalidRows
from batchmill.json_values import find_fault, printable
from batchmill.storage.served_models import find_model
from batchmill_coordinator.endpoints.base import BodyFault
from batchmill_coordinator.inspection.request_rows import table_from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from batchmill.storage.served_models import ServedModel
    from batchmill_coordinator.endpoints.base import Endpoint, Rows
    from batchmill_coordinator.inspection.arrow_bounds import ArrowLimits

MAX_LINES = 50_000
MAX_ROWS = 50_000  # inputs of embeddings, in all lines together
MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_FAULTS = 100
MAX_CUSTOM_ID_CHARS = 512
PART_BYTES = 4 * 1024 * 1024
BOM = b"\xef\xbb\xbf"

LINE, INPUT, CUSTOM_ID, FORM = "batch_line", "batch_input", "batch_custom_id", "batch_form"
OWN = pa.schema({LINE: pa.int64(), INPUT: pa.int64(), CUSTOM_ID: pa.string(), FORM: pa.string()})
"""The columns of a batch's rows beside those of the operator. `batch_form` is JSON text."""

REQUIRED = ("custom_id", "method", "url", "body")


@dataclass(frozen=True, slots=True)
class LineFault:
    """What is wrong with a line, or with the file: then `line` is None."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass(slots=True)
class ReadLines:
    """What became of a file. model: the name that its lines have. params: of the operator, set by the lines."""

    faults: list[LineFault] = field(default_factory=list)
    lines: int = 0
    rows: int = 0
    parts: int = 0
    model: str | None = None
    params: dict[str, Any] = field(default_factory=dict)


class BatchReader:
    """Reads the file of one batch.

    models: those that are served, by name. write: writes a part of the upload: its number, and its rows.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        models: Mapping[str, ServedModel],
        limits: ArrowLimits,
        write: Callable[[int, pa.Table], object],
    ) -> None:
        self._endpoint = endpoint
        self._models = models
        self._limits = limits
        self._write = write
        self._found = ReadLines()
        self._seen: set[bytes] = set()
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0
        self._has_first = False

    def read(self, pieces: Iterable[bytes]) -> ReadLines:
        """Read all lines, or as far as it matters."""
        found = self._found
        for number, line in split_lines(pieces):
            try:
                if line is not None and not line.strip():
                    continue
                if found.lines == MAX_LINES:
                    self._fail(f"The batch has over {MAX_LINES:,} requests, the limit.", "too_many_tasks")
                    break
                found.lines += 1
                self._take(number, line)
                if self._pending_bytes >= PART_BYTES and not found.faults:
                    self._flush()
            except BodyFault as fault:
                self._note(fault, number)
            if len(found.faults) >= MAX_FAULTS:
                break
        if not found.lines:
            self._fail("The file has no requests.", "empty_file")
        if not found.faults:
            self._flush()
        return found

    def _fail(self, message: str, code: str) -> None:
        self._found.faults.append(LineFault(code, message))

    def _note(self, fault: BodyFault, number: int) -> None:
        param = None if fault.param is None else printable(fault.param)
        self._found.faults.append(LineFault(fault.code, printable(fault.message), param, number))

    def _take(self, number: int, line: bytes | None) -> None:
        if line is None:
            raise BodyFault(f"This line has over {MAX_LINE_BYTES:,} bytes.", code="invalid_request")
        request = parse_line(line)
        custom_id = self._check_head(request)
        try:
            read = self._read_body(request["body"])
        except BodyFault as fault:
            param = "body" if fault.param is None else f"body.{fault.param}"
            raise BodyFault(fault.message, param, fault.code) from None
        self._found.rows += len(read.rows)
        if self._found.rows > MAX_ROWS:
            raise BodyFault(f"The batch has over {MAX_ROWS:,} inputs, the limit.", code="too_many_tasks")
        form = json.dumps(read.form) if read.form else None
        own = {LINE: number, CUSTOM_ID: custom_id, FORM: form}
        if self._found.faults:
            return  # the batch fails, and its rows are not needed
        self._pending += [{**row, **own, INPUT: place} for place, row in enumerate(read.rows)]
        self._pending_bytes += len(line)

    def _check_head(self, request: dict[str, Any]) -> str:
        """Check what is around the body of a request; return its `custom_id`. Raises `BodyFault`."""
        for name in REQUIRED:
            if request.get(name) is None:
                raise BodyFault(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        custom_id, method, url, body = (request[name] for name in REQUIRED)
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID_CHARS:
            limit = f"a text of 1 to {MAX_CUSTOM_ID_CHARS} characters"
            raise BodyFault(f"Invalid 'custom_id': expected {limit}.", "custom_id", "invalid_type")
        if method != "POST":
            raise BodyFault("Invalid method: expected 'POST'.", "method", "invalid_method")
        if url != self._endpoint.url:
            message = "The URL provided for this request does not match the batch endpoint."
            raise BodyFault(message, "url", "invalid_url")
        if not isinstance(body, dict):
            raise BodyFault("Invalid 'body': expected an object.", "body", "invalid_type")
        digest = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
        if digest in self._seen:
            shown = custom_id[:80]
            raise BodyFault(f"The custom_id '{shown}' is used twice in this file.", "custom_id", "duplicate_custom_id")
        self._seen.add(digest)
        return custom_id

    def _read_body(self, body: dict[str, Any]) -> Rows:
        if body.get("stream"):
            raise BodyFault("Streaming is not supported in the Batch API.", "stream", "streaming_unsupported")
        model = self._model_of(body) if self._endpoint.kind else None
        served = None if model is None else find_model(self._models, model)
        read = self._endpoint.rows(body, served)
        for row in read.rows:
            taken = next((name for name in row if name in OWN.names), None)
            if taken is not None:
                raise BodyFault(f"The column '{taken}' has a name that batches use themselves: rename it.", "row")
        found = self._found
        if not self._has_first:
            found.model, found.params, self._has_first = model, read.params, True
            if served is not None:
                self._endpoint.check(served)
        if model != found.model:
            raise BodyFault(f"All requests of a batch have one model, here '{found.model}'.", "model", "model_mismatch")
        if read.params != found.params:
            known = found.params
            other = next(name for name in {**read.params, **known} if read.params.get(name) != known.get(name))
            message = f"All requests of a batch have the same '{other[:80]}': one job has one set of parameters."
            raise BodyFault(message, other[:80], "parameter_mismatch")
        return read

    def _model_of(self, body: dict[str, Any]) -> str:
        name = body.get("model")
        if not isinstance(name, str) or not name:
            raise BodyFault("Model parameter is required.", "model")
        model = find_model(self._models, name)
        if model is None or model.answers != self._endpoint.kind:
            shown = name[:128]
            raise BodyFault(
                f"The model '{shown}' does not exist, or does not answer {self._endpoint.url}.",
                "model",
                "model_not_found",
            )
        return name

    def _flush(self) -> None:
        """Write the rows that are pending as a part; those without a common type are a fault."""
        if not self._pending:
            return
        try:
            table = self._table()
        except InvalidRows as error:
            place = error.details.get("row")
            line = self._pending[place][LINE] if isinstance(place, int) else None
            self._found.faults.append(LineFault("invalid_type", printable(error.message), "body.row", line))
            return
        self._write(self._found.parts, table)
        self._found.parts += 1
        self._pending, self._pending_bytes = [], 0

    def _table(self) -> pa.Table:
        model = self._found.model
        schema = self._endpoint.row_schema(find_model(self._models, model) if model else None)
        if schema is not None:
            return pa.Table.from_pylist(self._pending, pa.schema([*schema, *OWN]))
        own = pa.Table.from_pylist(self._pending, OWN)
        rows = [{name: value for name, value in row.items() if name not in OWN.names} for row in self._pending]
        table = table_from_json(rows, self._limits)
        for name in OWN.names:
            table = table.append_column(name, own.column(name))
        return table


def split_lines(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield each line of a file with its number from 1; None for one that is too long, which is never in memory."""
    number, held, is_too_long = 1, bytearray(), False
    for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for end in ended:
            complete = held + end if held else end
            fits = not is_too_long and len(complete) <= MAX_LINE_BYTES
            yield number, bytes(complete).removeprefix(BOM if number == 1 else b"") if fits else None
            number, held, is_too_long = number + 1, bytearray(), False
        held += rest
        if len(held) > MAX_LINE_BYTES:
            is_too_long = True
            held.clear()
    if held or is_too_long:
        yield number, None if is_too_long else bytes(held).removeprefix(BOM if number == 1 else b"")


def parse_line(line: bytes) -> dict[str, Any]:
    """Parse a line that is to be a JSON object. Raises `BodyFault`."""
    try:
        value = json.loads(line.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BodyFault("This line is not parseable as valid JSON.", code="invalid_json_line") from None
    if not isinstance(value, dict):
        raise BodyFault("This line is no JSON object.", code="invalid_json_line")
    fault = find_fault(value)
    if fault is not None:
        raise BodyFault(f"'{fault.field[:80]}' {fault.reason}.", fault.field[:80], "invalid_json_line")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
