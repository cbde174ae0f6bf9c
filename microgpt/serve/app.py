"""The application: which routes there are, and how a request becomes a call and a call an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from microgpt.serve import api, muchq, openai, static, strict_json
from microgpt.serve.errors import ApiError, Dialect, dialect_of, internal_error
from microgpt.serve.metrics import MEDIA as METRICS
from microgpt.serve.metrics import ROUTE
from microgpt.serve.protocol import CONNECTION
from microgpt.serve.routes import Call, Refusal, Route
from microgpt.serve.service import Service


def routes() -> list[Route]:
    """Every route of the service."""
    return [*OWN, *static.ROUTES, *api.ROUTES, *muchq.ROUTES, *openai.ROUTES]


def application(service: Service, guarded: Callable[[ASGIApp], ASGIApp]) -> ASGIApp:
    """The ASGI application of a service, within its guard."""
    table = [StarletteRoute(route.path, Endpoint(service, route), methods=[route.method]) for route in routes()]
    app = Starlette(routes=table, exception_handlers={HTTPException: _http_error})
    app.router.redirect_slashes = False
    plain = {
        (method, route.path): route.app for route in table for method in route.methods or () if "{" not in route.path
    }

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        """Straight to the endpoint of a path without parameters; Starlette looks for the others."""
        await plain.get((scope["method"], scope["path"]), app)(scope, receive, send)

    return guarded(dispatch)


class Endpoint:
    """A route as an ASGI application: reads the body, calls the handler, and cancels it when the client leaves."""

    def __init__(self, service: Service, route: Route) -> None:
        self._service, self._route, self._shown = service, route, route.shown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        scope[ROUTE] = self._shown
        try:
            with scope[CONNECTION].cancels():
                try:
                    body = await self._body(request) if self._route.body else None
                    response = await self._answer(request, body)
                except ApiError as error:
                    response = refused(self._route.dialect, error)
                await response(scope, receive, send)
        except ClientDisconnect:
            pass

    async def _answer(self, request: Request, body: BaseModel | None) -> Response:
        client = request.client.host if request.client else ""
        try:
            answer = await self._route.handler(Call(self._service, request, body, client))
        except ApiError:
            raise
        except Exception:
            raise internal_error(self._shown) from None
        if isinstance(answer, BaseModel):
            return Response(answer.model_dump_json(), media_type="application/json")
        return answer

    async def _body(self, request: Request) -> BaseModel:
        route = self._route
        assert route.body
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "expected a body without Content-Encoding")
        media, _, _ = request.headers.get("content-type", "").partition(";")
        if media.strip().lower() != "application/json":
            raise ApiError(415, "expected Content-Type: application/json")
        try:
            value = strict_json.parse(await request.body(), lenient=route.body.model_config.get("extra") == "ignore")
        except strict_json.JsonError as error:
            status = 422 if route.dialect is Dialect.PLAIN and error.kind != "syntax" else 400
            where = f"{error.param}: " if error.param and error.kind != "duplicate" else ""
            raise ApiError(status, f"{where}{error}", param=error.param) from None
        try:
            return route.body.model_validate(value)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            raise (route.refuse or refusal(route.dialect))(found) from None


def refusal(dialect: Dialect) -> Refusal:
    """How a dialect refuses a body of the wrong shape: the first mistake, with the field's name."""
    status = 422 if dialect is Dialect.PLAIN else 400

    def refuse(errors: list[Any]) -> ApiError:
        first = errors[0]
        param = ".".join(str(part) for part in first["loc"] if not (isinstance(part, str) and "[" in part))
        message = "it occurs twice; keep one" if isinstance(first["input"], strict_json.Repeated) else first["msg"]
        return ApiError(status, f"{param or 'body'}: {message}", param=param or None)

    return refuse


def refused(dialect: Dialect, error: ApiError) -> Response:
    """The response of an error."""
    return JSONResponse(dialect.render(error), error.status, headers=error.headers)


def _http_error(request: Request, error: Exception) -> Response:
    """An unknown path or method, in the dialect of its path."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}"[:200]
    sentence = {404: f"{what}: no such route", 405: f"{what}: this method is not allowed"}
    message = sentence.get(error.status_code, str(error.detail))
    return refused(
        dialect_of(request.url.path), ApiError(error.status_code, message, headers=dict(error.headers or {}))
    )


async def health(call: Call) -> Response:
    """Whether a model is loaded; it waits for nothing."""
    return PlainTextResponse("Ok") if call.service.models.ready else PlainTextResponse("loading", 503)


async def metrics(call: Call) -> Response:
    """Prometheus' text."""
    return Response(call.service.metrics.text(), media_type=METRICS)


async def openapi(call: Call) -> Response:
    """The document of all routes."""
    return JSONResponse(call.service.openapi)


OWN = [
    Route(
        "GET",
        "/health",
        health,
        "Whether the service is ready.",
        public=True,
        media="text/plain",
        statuses={503: "loading"},
    ),
    Route("GET", "/metrics", metrics, "Counters for Prometheus.", media="text/plain"),
    Route("GET", "/openapi.json", openapi, "This document."),
]
