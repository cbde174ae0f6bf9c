"""The gate before all routes: strange hosts, origins and clients without the key are refused before any work."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Collection, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from microgpt.serve.errors import ApiError, dialect_of

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
BASIC = 'Basic realm="microgpt", charset="UTF-8"'  # a browser then asks its user for a name and a password: the key
PREFLIGHT = {
    "access-control-allow-methods": "GET, POST",
    "access-control-allow-headers": "authorization, content-type",
    "access-control-max-age": "600",
}


class Guard:
    """Host, Origin and API key, in this order; adds the headers that every answer has."""

    def __init__(
        self, app: ASGIApp, *, host: str, origins: Sequence[str], api_key: str | None, public: Collection[str]
    ) -> None:
        self._app = app
        self._hosts = {*LOOPBACK, bracketed(host).lower()}
        self._origins = frozenset(origins)
        self._key = None if api_key is None else api_key.encode()
        self._public = frozenset(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        listed = origin in self._origins

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added["x-content-type-options"] = "nosniff"
                if listed and origin:
                    added["access-control-allow-origin"] = origin
                    added.add_vary_header("Origin")
            await send(message)

        try:
            response = self._refusal(scope, headers, listed)
        except ApiError as error:
            response = JSONResponse(dialect_of(scope["path"]).render(error), error.status, headers=error.headers)
            if error.status == 401 and "text/html" in headers.get("accept", ""):
                response.headers.append("www-authenticate", BASIC)
        await (response or self._app)(scope, receive, sending)

    def _refusal(self, scope: Scope, headers: Headers, listed: bool) -> Response | None:
        """The answer to a preflight, or None. Raises ApiError."""
        local, port = scope["server"] or ("", None)
        hosts = self._hosts | {bracketed(local)}
        given = headers.get("host", "").lower()
        host = HOST.fullmatch(given)
        if not host or host[1] not in hosts:
            raise ApiError(403, "this Host is not served here; use 127.0.0.1, localhost or the value of --host")
        origin = headers.get("origin")
        own = {f"{scope['scheme']}://{given}", *(f"{scope['scheme']}://{one}:{port}" for one in hosts)}
        if len(headers.getlist("origin")) > 1 or (origin is not None and not listed and origin not in own):
            raise ApiError(403, "pages of this Origin may not use the service; --allow-origin lists those that may")
        if listed and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            return Response(status_code=204, headers=PREFLIGHT)
        if self._key and scope["path"] not in self._public:
            given_keys = headers.getlist("authorization")
            if len(given_keys) != 1 or not hmac.compare_digest(key_of(given_keys[0]), self._key):
                raise ApiError(
                    401,
                    "this service asks for its API key: Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
        return None


def key_of(authorization: str) -> bytes:
    """The key of `Bearer KEY`, or of `Basic` with the key as its password, which is what browsers send; else b""."""
    scheme, _, value = authorization.partition(" ")
    if scheme == "Bearer":
        return value.encode("latin-1")
    if scheme == "Basic":
        try:
            return base64.b64decode(value.encode("latin-1"), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def bracketed(host: str) -> str:
    """An address as it stands in a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    return bracketed(host).lower() in LOOPBACK or re.fullmatch(r"127\.\d+\.\d+\.\d+", host) is not None


def is_origin(text: str) -> bool:
    """Whether a text is an origin: scheme, host and maybe a port."""
    scheme, _, rest = text.partition("://")
    return scheme in ("http", "https") and HOST.fullmatch(rest) is not None
