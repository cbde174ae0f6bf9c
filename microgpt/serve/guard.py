"""The gate before all routes: strange hosts, origins and clients without the key are refused before any work."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Collection, Sequence

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from microgpt.serve.errors import ApiError, dialect_of

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
BASIC = 'Basic realm="microgpt", charset="UTF-8"'  # a browser then asks its user for a name and a password: the key
NOSNIFF = (b"x-content-type-options", b"nosniff")
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
        origins = values(scope, b"origin")
        listed = bool(origins) and origins[0] in self._origins

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], NOSNIFF]
                if listed:
                    added = MutableHeaders(scope=message)
                    added["access-control-allow-origin"] = origins[0]
                    added.add_vary_header("Origin")
            await send(message)

        try:
            response = self._refusal(scope, origins, listed)
        except ApiError as error:
            response = JSONResponse(dialect_of(scope["path"]).render(error), error.status, headers=error.headers)
            if error.status == 401 and "text/html" in "".join(values(scope, b"accept")):
                response.headers.append("www-authenticate", BASIC)
        await (response or self._app)(scope, receive, sending)

    def _refusal(self, scope: Scope, origins: Sequence[str], listed: bool) -> Response | None:
        """The answer to a preflight, or None. Raises ApiError."""
        local, port = scope["server"] or ("", None)
        local = bracketed(local)
        given = "".join(values(scope, b"host")).lower()
        host = HOST.fullmatch(given)
        if not host or (host[1] not in self._hosts and host[1] != local):
            raise ApiError(403, "this Host is not served here; use 127.0.0.1, localhost or the value of --host")
        if origins and not (listed and len(origins) == 1):
            own = {
                f"{scope['scheme']}://{one}" for one in (given, *(f"{name}:{port}" for name in (*self._hosts, local)))
            }
            if len(origins) > 1 or origins[0] not in own:
                raise ApiError(403, "pages of this Origin may not use the service; --allow-origin lists those that may")
        if listed and scope["method"] == "OPTIONS" and values(scope, b"access-control-request-method"):
            return Response(status_code=204, headers=PREFLIGHT)
        if self._key and scope["path"] not in self._public:
            given_keys = values(scope, b"authorization")
            if len(given_keys) != 1 or not hmac.compare_digest(key_of(given_keys[0]), self._key):
                raise ApiError(
                    401,
                    "this service asks for its API key: Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
        return None


def values(scope: Scope, name: bytes) -> list[str]:
    """The values of a header, one for each time that it is given; its name in lower case."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


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
