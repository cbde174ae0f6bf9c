"""Errors as a client sees them: a status and one sentence, in the shape of the route's dialect."""

from __future__ import annotations

import enum
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from microgpt.errors import MicrogptError

EXACT = ConfigDict(extra="forbid")  # of an answer that has no further fields, also in /openapi.json
log = logging.getLogger(__name__)


class ApiError(Exception):
    """A request that is refused. `param` names the field."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})


class Overloaded(ApiError):
    """All streams run and the queue is full, or the server is ending."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(503, message, code="overloaded", headers={"retry-after": str(retry_after)})


class Closing(Overloaded):
    """The server is ending. A reply under way may end with this, too."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down; try again", 5)


class ModelError(ApiError):
    """A model that cannot be loaded; `cause` is for the operator, not for clients."""

    def __init__(self, message: str, cause: MicrogptError) -> None:
        super().__init__(500, message, code="model_unavailable")
        self.cause = cause


def internal_error(where: str) -> ApiError:
    """The error for an exception that is none of the client's: logged here under a number that the client is told."""
    number = secrets.token_hex(4)
    log.exception("error %s at %s", number, where)
    return ApiError(500, f"internal error {number}; the server's log says more")


class PlainError(BaseModel):
    """An error of muchq's routes, and of those that belong to no dialect."""

    model_config = EXACT
    error: str


class ErrorDetail(BaseModel):
    """What was wrong with a request."""

    model_config = EXACT
    message: str
    type: str
    param: str | None
    code: str | None


class DetailedError(BaseModel):
    """An error of OpenAI's routes."""

    model_config = EXACT
    error: ErrorDetail


class Dialect(enum.Enum):
    """Whose shape of errors a route answers with."""

    PLAIN = PlainError
    OPENAI = DetailedError

    def render(self, error: ApiError) -> dict[str, Any]:
        """The body of an error."""
        if self is Dialect.PLAIN:
            return PlainError(error=error.message).model_dump()
        detail = ErrorDetail(message=error.message, type=_type(error.status), param=error.param, code=error.code)
        return DetailedError(error=detail).model_dump()


def dialect_of(path: str) -> Dialect:
    """The dialect of a path, whether or not there is such a route."""
    return Dialect.OPENAI if path.startswith(("/v1/", "/tokenize", "/detokenize")) else Dialect.PLAIN


def _type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    return "invalid_request_error" if status < 500 else "server_error"
