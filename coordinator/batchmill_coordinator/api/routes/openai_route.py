"""Routes in the form of OpenAI's API: the errors of the others, with statuses and fields that its clients read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from batchmill.errors import BatchmillError, Conflict, InvalidRequest, Overloaded
from batchmill_coordinator.api.access import RETRY_AFTER_S
from batchmill_coordinator.api.openapi import raises
from batchmill_coordinator.api.routes.routing import ApiRoute
from batchmill_coordinator.api.validation import explain

if TYPE_CHECKING:
    from collections.abc import Callable

UNPROCESSABLE, BAD_REQUEST, TOO_MANY = 422, 400, 429


class OpenAIRoute(ApiRoute):
    """A route whose errors are as OpenAI's clients expect them."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        options["responses"] = {
            TOO_MANY: raises(Overloaded)[Overloaded.http_status],
            **(options.get("responses") or {}),
        }
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Answer, and give an error its form."""
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                response: Response = await answer(request)
            except BatchmillError as error:
                return openai_error(error)
            except RequestValidationError as error:
                return openai_error(explain(error.errors()[0]))
            except HTTPException as error:
                return openai_error(InvalidRequest(f"the request cannot be read: {error.detail}"))
            return response

        return handle


def openai_error(error: BatchmillError) -> JSONResponse:
    """An error as OpenAI's clients read it: 400 for what is wrong with the request, 429 for what is too much.

    A conflict is not to be sent again, which they would do otherwise.
    """
    status = error.http_status
    headers = {}
    if isinstance(error, Overloaded):
        status, headers = TOO_MANY, {"Retry-After": str(RETRY_AFTER_S)}
    elif status == UNPROCESSABLE:
        status = BAD_REQUEST
    elif isinstance(error, Conflict):
        headers = {"x-should-retry": "false"}
    return JSONResponse({"error": error_body(error)}, status, headers)


def error_body(error: BatchmillError) -> dict[str, Any]:
    """What is wrong, with the fields of OpenAI's errors. param: the field of the request, or null."""
    return {
        "message": str(error),
        "type": "rate_limit_error" if isinstance(error, Overloaded) else _type_of(error.http_status),
        "param": error.details.get("field"),
        "code": error.code,
        "hint": error.hint,
        "details": error.details,
    }


def _type_of(status: int) -> str:
    return "server_error" if status >= 500 else "invalid_request_error"
