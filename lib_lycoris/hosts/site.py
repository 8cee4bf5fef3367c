"""Who may talk to the standalone app: programs and pages of this machine. One gate before the whole web application.

A browser sends any page's requests to our port, with whatever name was made to lead here; so each request must name this machine, and a
page that sends one must be ours.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.websockets import WebSocketDisconnect

from ..errors import readable

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST = 8 << 20  # bytes of a request: prompts, settings, images
UPLOAD, LARGEST_FILE = "/upload", 4 << 30  # Gradio's route for files, which it writes to the disk as they come; bytes of a request to it
LONGEST_NAME = 255  # bytes, of a part of a path: more makes the file system raise where it is asked
GRADIOS = ("/queue/", "/run/", "/call/", "/api/", UPLOAD, "/file")  # Gradio's routes, whose code takes a request for one of its pages'
TO_OTHERS = ("/proxy=", "/proxy/")  # Gradio's route that fetches from another server
_FOREIGN_TAG = re.compile(
    rb"<(script|link|iframe|img)\b[^>]*?\b(?:src|href)\s*=\s*[\"'](?:https?:)?//[^>]*>(?:\s*</script>)?", re.IGNORECASE
)

_log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def name_of(host: str) -> str | None:
    """Return the name in a Host header, without its port; None for one that is no host."""
    try:
        parts = urlsplit(f"//{host}")
        return None if parts.path or parts.query or parts.username is not None or (parts.port or 0) < 0 else parts.hostname
    except ValueError:
        return None


def is_own_page(origin: str, host: str) -> bool:
    """Tell whether an Origin header is of a page that the same host and port has sent."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


class SiteGuard:
    """ASGI middleware: refuses other names, other pages and large bodies, and lets nothing of a page come from another host."""

    def __init__(
        self, app: Application, names: Iterable[str] = LOOPBACK, largest: int = LARGEST, largest_file: int = LARGEST_FILE
    ) -> None:  # fmt: skip
        self.app = app
        self.names = frozenset(name.lower() for name in names)
        self.largest, self.largest_file = largest, largest_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: by a refusal of one sentence, or by what the application answers."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
        elif scope["type"] == "websocket":
            with suppress(WebSocketDisconnect):  # the page was closed, for which Gradio 3 waits: no fault of anybody
                await self.app(scope, receive, send)
        else:
            await self._answer(scope, receive, send, dict(headers)["host"])

    async def _answer(self, scope: Scope, receive: Receive, send: Send, host: str) -> None:
        limited = _Limited(receive, self._most(scope))
        answer = _Answer(send, host, limited)
        try:
            await self.app(scope, limited, answer)
        except Exception as error:
            if not limited.exceeded or answer.is_the_applications:
                if answer.begun or not scope["path"].startswith(GRADIOS):
                    raise
                what = f"{type(error).__name__}: {error}"
                _log.warning("%s was sent what no page of the app sends: %s", readable(scope["path"], 80), readable(what, 200))
                await answer.refuse(422, "the pages of this app send no such request")
            # else it is what the application makes of a body that was cut off: below it is said what is wrong
        if limited.exceeded:
            await answer.refuse(413, _too_large(limited.largest))

    def _refusal(self, scope: Scope, headers: list[tuple[str, str]]) -> tuple[int, str] | None:
        """Return the HTTP status and the sentence of a refusal; None for what may pass."""
        several = {name: [value for other, value in headers if other == name] for name in ("host", "origin", "content-length")}
        if len(several["host"]) != 1 or any(len(values) > 1 for values in several.values()):
            return 400, "a request needs one Host header, and no other of its kind twice"
        host = several["host"][0]
        if name_of(host) not in self.names:
            return 403, "this app answers under this machine's loopback address only; start it with --allow-host NAME for another name"
        if several["origin"] and not is_own_page(several["origin"][0], host):
            return 403, "a page of another site may not use this app"
        if _sent_by_another_page(scope, dict(headers)):
            return 403, "a page of another site may not use this app"
        if _leads_elsewhere(scope["path"]) or any(len(part.encode("utf-8", "replace")) > LONGEST_NAME for part in scope["path"].split("/")):
            return 404, "there is no such file"
        length = (several["content-length"] or ["0"])[0]
        if not length.isascii() or not length.isdigit():
            return 400, "the Content-Length header is no number"
        most = self._most(scope)
        return (413, _too_large(most)) if len(length) > 12 or int(length) > most else None

    def _most(self, scope: Scope) -> int:
        """Return how many bytes a request may have."""
        return self.largest_file if scope["path"] == UPLOAD else self.largest


def _too_large(most: int) -> str:
    return f"at most {most / 1e6:,.0f} MB are taken at a time; a larger file can be named by its path"


def _sent_by_another_page(scope: Scope, headers: dict[str, str]) -> bool:
    """Tell what browsers say themselves: only a link of another page to our first page is let in."""
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return not (link and scope.get("method") == "GET" and scope["path"] in ("/", ""))


def _leads_elsewhere(path: str) -> bool:
    """Tell whether Gradio would fetch an address that a path names, or send the browser there."""
    if path.startswith(TO_OTHERS):
        return True
    named = re.match(r"/file[=/](.*)", path, re.DOTALL)
    return named is not None and re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]+:|[/\\]{2})", named[1]) is not None


class _Limited:
    """Receives the body of a request, and ends it where it grows too large; its length need not have been announced."""

    def __init__(self, receive: Receive, largest: int) -> None:
        self.receive, self.largest, self.left = receive, largest, largest

    @property
    def exceeded(self) -> bool:
        """Whether more was sent than is allowed."""
        return self.left < 0

    async def __call__(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.request":
            self.left -= len(message.get("body", b""))
            if self.exceeded:
                return {"type": "http.disconnect"}
        return message


class _Answer:
    """Sends an answer: no redirect to another host, no part of a page from one."""

    def __init__(self, send: Send, host: str, request: _Limited) -> None:
        self.send, self.host, self.request = send, host, request
        self.start: Message | None = None  # of a page that is changed, kept until its length is known
        self.body = b""
        self.begun = self.dropped = False

    @property
    def is_the_applications(self) -> bool:
        """Whether the application's own answer is under way, so that nothing else can be said any more."""
        return self.begun and not self.dropped

    async def refuse(self, status: int, sentence: str) -> None:
        """Answer so, unless something was answered already."""
        if not self.begun:
            await self._instead(status, sentence)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self.dropped:
            return
        elif self.start is not None and message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._finish(self.start)
        else:
            await self.send(message)

    async def _begin(self, message: Message) -> None:
        headers = [(name.lower(), value) for name, value in message.get("headers", [])]
        found = dict(headers)
        if self.request.exceeded:  # an application may say nothing then
            await self.refuse(413, _too_large(self.request.largest))
            return
        self.begun = True
        if 300 <= message["status"] < 400 and self._is_foreign(found.get(b"location", b"").decode("latin-1")):
            await self._instead(404, "there is no such file")
            return
        message["headers"] = [*(pair for pair in headers if not pair[0].startswith(b"access-control-")), *_policy(self.host)]
        if found.get(b"content-type", b"").startswith(b"text/html") and b"content-encoding" not in found:
            self.start = message
        else:
            await self.send(message)

    async def _instead(self, status: int, sentence: str) -> None:
        self.begun = self.dropped = True
        await _answer(self.send, status, sentence)

    async def _finish(self, start: Message) -> None:
        page = _FOREIGN_TAG.sub(b"", self.body)
        others = [pair for pair in start["headers"] if pair[0] != b"content-length"]
        start["headers"] = [*others, (b"content-length", str(len(page)).encode())]
        await self.send(start)
        await self.send({"type": "http.response.body", "body": page})

    def _is_foreign(self, location: str) -> bool:
        try:
            netloc = urlsplit(location.replace("\\", "/")).netloc
        except ValueError:
            return True
        return netloc.lower() not in ("", self.host.lower())


def _policy(host: str) -> list[tuple[bytes, bytes]]:
    """Return headers by which the browser itself loads nothing from other hosts; Gradio's pages have inline scripts and build functions."""
    own = f"'self' ws://{host} wss://{host} data: blob:"
    policy = (
        f"default-src {own} 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'; object-src 'none'"
    )
    return [
        (b"content-security-policy", policy.encode("latin-1")),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
    ]


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": sentence})
    else:
        await _answer(send, status, sentence)


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = sentence.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
