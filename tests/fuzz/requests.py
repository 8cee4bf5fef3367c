"""Hostile requests to all our routes, behind the gate of the standalone app: never a 500, never a path of ours, never a foreign page."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from lib_lycoris.errors import LycorisError
from lib_lycoris.hosts.jobs_api import ADDRESS, add_docs, add_job_routes
from lib_lycoris.hosts.library.library import Library
from lib_lycoris.hosts.site import SiteGuard
from lib_lycoris.hosts.webui.adapters import A1111
from lib_lycoris.hosts.webui.interface import api, card_files
from lib_lycoris.tools.examine.inspect import inspect
from lib_lycoris.tools.files.store import ModelFile
from lib_lycoris.tools.jobs.queue import Jobs
from lib_lycoris.tools.jobs.service import JobService

from .judge import Unclean, wrong_with
from .options import odd_options, outputs
from .tiny_files import FILES, untouched
from .values import odd_json, odd_text, odd_value

HOST = b"127.0.0.1:7870"
METHODS = ("POST", "GET", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH", "x")
HOSTS = (
    b"evil.example",
    b"127.0.0.1.evil.example",
    b"",
    b"localhost@evil",
    b"[::1",
    b"127.0.0.1:99999999",
    b"\xff",
    b"127.0.0.1 ",
    b"0.0.0.0:7870",
)
ORIGINS = (
    b"null",
    b"http://evil.example",
    b"http://127.0.0.1:1",
    b"",
    b"http://[",
    b"file://",
    b"https://127.0.0.1:7870.evil.example",
    b"\xff\xfe",
)
TYPES = (
    b"application/json",
    b"application/json; charset=utf-16",
    b"text/plain",
    b"multipart/form-data; boundary=x",
    b"",
    b"APPLICATION/JSON",
    b"\xff",
)
HEADERS = (
    b"x",
    b"cookie",
    b"authorization",
    b"transfer-encoding",
    b"content-length",
    b"sec-fetch-site",
    b"range",
    b"accept-encoding",
    b"x-forwarded-host",
)
Answer = tuple[int, dict[bytes, bytes], bytes]


class Folder:
    """One folder, as a host offers it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def networks(self) -> list[ModelFile]:
        return [ModelFile(Path(name).stem, self.folder / name) for name in FILES[2:4]]

    def checkpoints(self) -> list[ModelFile]:
        return [ModelFile(name, self.folder / name) for name in (*FILES[:2], FILES[4])]

    def network_folder(self) -> Path:
        return self.folder

    checkpoint_folder = network_folder


@contextmanager
def application(folder: Path) -> Iterator[tuple[Any, Jobs]]:
    """Give the web application for a folder, with the webui's routes beside the app's, and its jobs."""
    shared = types.SimpleNamespace(cmd_opts=types.SimpleNamespace(api=True, nowebui=False, api_auth=None))
    modules, jobs, before, host = types.ModuleType("modules"), Jobs(), card_files.library, api.host
    modules.shared = shared  # type: ignore[attr-defined]
    library = Library([folder], None)
    sys.modules["modules"] = modules
    card_files.library = lambda: library
    api.host = lambda: types.SimpleNamespace(webui=A1111())  # type: ignore[assignment,return-value]
    try:
        app, service = FastAPI(docs_url=None, redoc_url=None), JobService(jobs, Folder(folder))
        add_job_routes(app, service, [])
        add_docs(app, service)
        api.add_routes(app, lambda path, family: inspect(path, family=family).as_dict())
        yield SiteGuard(app), jobs
    finally:
        card_files.library, api.host = before, host
        sys.modules.pop("modules", None)
        jobs.close()


def call(app: Any, method: str, path: bytes, query: bytes, headers: list[tuple[bytes, bytes]], pieces: list[bytes]) -> Answer:
    """Send one request as a server would hand it on; return status, headers and body."""
    waiting, sent = list(pieces), list[Any]()

    async def receive() -> Any:
        if not waiting:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path.decode("utf-8", "replace"), "raw_path": path, "query_string": query, "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 7870),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    start = next((message for message in sent if message["type"] == "http.response.start"), None)
    if start is None:
        raise Unclean("no answer")
    return start["status"], dict(start["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


def address(rng: random.Random, tools: list[str]) -> tuple[str, bytes, bytes]:
    """Return the method, path and query of one of our routes, or of nearly one."""
    odd, jobs = odd_text(rng).encode("utf-8", "surrogatepass"), f"{ADDRESS}/".encode()
    method, path = "POST", jobs + rng.choice(tools).encode()
    if rng.random() < 0.4:
        method, path = rng.choice((
            ("POST", jobs + odd), ("GET", jobs + odd), ("DELETE", jobs + odd), ("GET", jobs + odd + b"/result"),
            ("GET", b"/sdapi/v1/lycos"),
            ("GET", b"/sdapi/v1/lycos/inspect"), ("POST", b"/sdapi/v1/refresh-lycos"), ("GET", b"/docs"), ("GET", b"/openapi.json"),
            ("GET", b"/" + odd), ("GET", b"/file=" + odd),
        ))  # fmt: skip
    if rng.random() < 0.1:
        method = rng.choice(METHODS)
    query = rng.choice(
        (
            b"",
            b"",
            b"replace=true",
            b"replace=" + odd,
            b"name=one",
            b"name=" + odd,
            odd,
            b"name=one&family=sd1",
            b"name=one&family=" + odd,
            b"name=%ff%00",
        )
    )
    return method, path, query


def request(rng: random.Random, folder: Path) -> None:
    """Send a request that nobody expects; wait for the job if it starts one."""
    with untouched(folder) as named, application(folder) as (app, jobs):
        tools = list(jobs.tools)
        method, path, query = address(rng, tools)
        tool = jobs.tools.get(path.decode("utf-8", "replace").rpartition("/")[2])
        given: Any = odd_value(rng)
        if tool is not None and rng.random() < 0.9:
            given = {name: _plain(value) for name, value in odd_options(tool, folder, rng).items()}
            if query == b"replace=true" or "in_place" in given:
                named |= {f"{name.removesuffix('.safetensors')}.safetensors" for name in outputs(tool, given)}
        body = odd_json(rng, given)
        headers = [(b"host", HOST), (b"content-type", b"application/json")]
        foreign = rng.random() < 0.1
        if foreign:
            headers = [(b"host", rng.choice(HOSTS)), (b"content-type", rng.choice(TYPES))] if rng.random() < 0.5 else headers
            headers.append((b"origin", rng.choice(ORIGINS)))
        if rng.random() < 0.05:
            headers[1] = (b"content-type", rng.choice(TYPES))
        if rng.random() < 0.1:
            headers.append((rng.choice(HEADERS), odd_text(rng).encode("utf-8", "replace")))
        pieces = [body[at : at + 50_000] for at in range(0, len(body), 50_000)] or [b""]
        status, _, text = call(app, method, path, query, headers, pieces[: rng.choice((100, 100, 100, 1))])
        if foreign and (status < 400 or jobs.all()):
            raise Unclean(f"a foreign page is let in: {headers} gives {status}")
        _judge(status, text, folder, quiet=status < 400)
        for job in jobs.all():
            _follow(app, job, folder)
        if status >= 400:
            raise LycorisError(f"{status}: {text[:300].decode('utf-8', 'replace')}")


def _follow(app: Any, job: Any, folder: Path) -> None:
    """Wait for a job and ask for all that is told of it."""
    if not job.wait(20):
        raise Unclean(f"{job.tool} does not end")
    for end in ("", "/result"):
        status, _, text = call(app, "GET", f"{ADDRESS}/{job.id}{end}".encode(), b"", [(b"host", HOST)], [b""])
        _judge(status, text, folder, quiet=job.error == "")
    if job.error and (said := wrong_with(job.error)):
        raise Unclean(said)
    if " failed: " in job.error:
        raise Unclean(job.error)


def _judge(status: int, text: bytes, folder: Path, quiet: bool) -> None:
    """Raise Unclean for an answer that is a fault of ours, or an error that tells where our files lie."""
    if status >= 500 or status < 200:
        raise Unclean(f"{status}: {text[:300]!r}")
    if not quiet and str(folder).encode() in text:
        raise Unclean(f"a path of ours in an error: {text[:400]!r}")
    if status >= 400 and b"Traceback" in text:
        raise Unclean(f"{text[-300:]!r}")
    json.dumps(text.decode("utf-8"))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.stem if isinstance(value, Path) and value.name in FILES[2:4] else value.name if isinstance(value, Path) else value


TARGETS = (request,)
