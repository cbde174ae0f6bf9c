"""/openapi.json, from the table of routes and the shapes that check their bodies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from microgpt import __version__
from microgpt.serve.errors import Dialect
from microgpt.serve.routes import Route

REFERENCE = "#/components/schemas/{model}"
ALWAYS = (400, 403, 431, 500, 503)  # statuses that every route may answer with
WITH_BODY = (408, 413, 415)


def document(routes: Sequence[Route], *, with_key: bool) -> dict[str, Any]:
    """The OpenAPI document of routes; 3.2 describes events of streams. `with_key`: they ask for an API key."""
    inputs = {(route.body, "validation") for route in routes if route.body}
    outputs = {(shape, "serialization") for route in routes for shape in (route.answer, *route.events) if shape}
    errors = {(dialect.value, "serialization") for dialect in Dialect}
    shapes = sorted(inputs | outputs | errors, key=lambda pair: pair[0].__name__)
    found, definitions = models_json_schema(shapes, ref_template=REFERENCE)  # type: ignore[arg-type]
    paths: dict[str, Any] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "summary": route.summary,
            "operationId": f"{route.method} {route.shown}",
            "responses": _responses(route, found, with_key),
        }
        if route.body:
            content = {"application/json": {"schema": found[route.body, "validation"]}}
            operation["requestBody"] = {"required": True, "content": content}
        if names := re.findall(r"{(\w+)}", route.shown):
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
                for name in names
            ]
        if with_key and not route.public:
            operation["security"] = [{"key": []}]
        paths.setdefault(route.shown, {})[route.method.lower()] = operation
    components: dict[str, Any] = {
        "schemas": {name: _plain(shape) for name, shape in definitions.get("$defs", {}).items()}
    }
    if with_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.2.0",
        "info": {"title": "microgpt", "version": __version__},
        "paths": paths,
        "components": components,
    }


def _responses(route: Route, found: Any, with_key: bool) -> dict[str, Any]:
    def content(shape: type[BaseModel]) -> dict[str, Any]:
        return {"application/json": {"schema": found[shape, "serialization"]}}

    good: dict[str, Any] = content(route.answer) if route.answer else {}
    if not good and not route.events:
        good = {route.media: {"schema": _any(route.media)}}
    if route.events:
        shapes = [found[shape, "serialization"] for shape in (*route.events, route.dialect.value)]
        good["text/event-stream"] = {"itemSchema": _event(shapes, route.done)}
    responses: dict[str, Any] = {"200": {"description": "OK", "content": good}}
    errors = {*ALWAYS, *(WITH_BODY if route.body else ()), *route.statuses}
    if route.body and route.dialect is Dialect.PLAIN:
        errors.add(422)
    if with_key and not route.public:
        errors.add(401)
    for status in sorted(errors):
        shape = content(route.dialect.value)
        if status in route.statuses and not route.answer and route.media == "text/plain":
            shape |= {"text/plain": {"schema": {"type": "string"}}}
        phrase = route.statuses.get(status) or (HTTPStatus(status).phrase)
        responses[str(status)] = {"description": phrase, "content": shape}
    return responses


def _event(shapes: Sequence[Any], done: bool) -> dict[str, Any]:
    """A server-sent event, whose data is JSON of one of the shapes or, as the last one, [DONE]."""
    data: dict[str, Any] = {"contentMediaType": "application/json", "contentSchema": {"anyOf": list(shapes)}}
    if done:
        data = {"anyOf": [{"const": "[DONE]"}, data]}
    fields = {"event": {"type": "string"}, "data": {"type": "string", **data}}
    return {"type": "object", "properties": fields, "required": ["data"]}


def _plain(shape: Any) -> Any:
    """A schema whose tuples are arrays of a fixed length: not every reader knows prefixItems."""
    if isinstance(shape, list):
        return [_plain(each) for each in shape]
    if not isinstance(shape, dict):
        return shape
    found = {key: _plain(value) for key, value in shape.items() if key != "prefixItems"}
    if isinstance(places := shape.get("prefixItems"), list):
        found["items"] = places[0] if all(place == places[0] for place in places) else {"anyOf": _plain(places)}
    return found


def _any(media: str) -> dict[str, Any]:
    return {"type": "object"} if media == "application/json" else {"type": "string"}
