"""The tools over HTTP: start a job, see how far it is, stop it, get its result. Who may ask is the host's decision."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from ..errors import LycorisError, reason
from ..plain_json import parse_json
from ..tools.jobs.service import JobService
from ..wording import storable
from . import jobs_docs
from .site import LOOPBACK, is_own_page, name_of

ADDRESS = "/lycoris/v1/jobs"
LARGEST = 1 << 20  # bytes of a request
Guard = Callable[..., None]
STATE = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "tool": {"type": "string"},
        "status": {"type": "string", "enum": ["waiting", "running", "done", "failed", "cancelled"]},
        "waiting_for": {"type": "integer", "description": "jobs that must end before this one begins"},
        "progress": {
            "type": "object", "nullable": True, "description": "the stage that runs; total is 0 and seconds_left null while unknown",
            "properties": {
                "step": {"type": "integer"}, "total": {"type": "integer"}, "unit": {"type": "string"}, "text": {"type": "string"},
                "rate": {"type": "number", "description": "steps a second"}, "seconds_left": {"type": "number", "nullable": True},
            },
        },
        "error": {"type": "string", "nullable": True, "description": "a sentence, when the job has failed or was cancelled"},
        "notes": {"type": "array", "items": {"type": "string"}, "description": "options that have no meaning here"},
    },
}  # fmt: skip
RESULT = {
    "type": "object",
    "properties": {
        "id": {"type": "string"}, "tool": {"type": "string"}, "text": {"type": "string", "description": "the report for people"},
        "report": {"type": "object", "description": "the report for programs, as the command line gives it with --json"},
        "outputs": {"type": "array", "items": {"type": "string"}, "description": "the files that were written"},
    },
}  # fmt: skip


def same_site(allowed: Callable[[str], bool] = lambda _: False) -> Guard:
    """Return a guard that refuses what a page of another site sends through somebody's browser, unless its origin is allowed."""

    def check(request: Request) -> None:
        origin = request.headers.get("origin")
        foreign = request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if origin is not None:
            foreign = not is_own_page(origin, request.headers.get("host", "")) and not allowed(origin)
        if foreign:
            raise HTTPException(403, f"a page of another site ({(origin or 'unknown')[:80]}) may not use the tools here")

    return check


def local_only(request: Request) -> None:
    """Refuse what was sent to another name than this machine's own: a foreign name may be made to lead here."""
    if name_of(request.headers.get("host", "")) not in LOOPBACK:
        raise HTTPException(403, "the tools here can be used under this machine's loopback address only")


def add_job_routes(app: FastAPI, service: JobService, guards: Sequence[Guard]) -> None:
    """Add the routes to a web application; each guard, called in its turn, raises HTTPException for whom it does not let in."""
    shared: dict[str, Any] = {"dependencies": [Depends(guard) for guard in guards], "tags": ["LyCORIS tools"]}
    one = {"path": f"{ADDRESS}/{{job_id}}", **shared}
    for tool, (summary, options) in service.schemas().items():
        app.add_api_route(
            f"{ADDRESS}/{tool}", _starter(service, tool), methods=["POST"], status_code=202, summary=summary, name=f"start_{tool}",
            description=f"{summary}. The body is a JSON table of its options. Answers at once; the job runs when those before it have "
            "ended. Files are named as in the lists of the host, or by paths inside of its model folders.",
            responses=_answers(202, "The job.", STATE, (403, 409, 413, 415, 422, 429)),
            openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": options}}}}, **shared,
        )  # fmt: skip
    app.add_api_route(f"{ADDRESS}/{{tool}}", _unknown(service), methods=["POST"], include_in_schema=False, **shared)
    app.add_api_route(
        **one, endpoint=_asker(service, service.state), methods=["GET"], summary="How far a job is", name="job_state",
        responses=_answers(200, "The job.", STATE, (403, 404)),
    )  # fmt: skip
    app.add_api_route(
        **one, endpoint=_asker(service, service.cancel), methods=["DELETE"], summary="Stop a job", name="job_cancel",
        description="It ends within a second and leaves no file; one that has ended already stays as it is.",
        responses=_answers(200, "The job.", STATE, (403, 404)),
    )  # fmt: skip
    app.add_api_route(
        f"{ADDRESS}/{{job_id}}/result", _asker(service, service.result), methods=["GET"], summary="What a job has made", name="job_result",
        responses=_answers(200, "Its report and its files.", RESULT, (403, 404, 409)), **shared,
    )  # fmt: skip
    app.openapi_schema = None  # made anew, with these


def add_docs(app: FastAPI, service: JobService) -> None:
    """Add a page at /docs that says what the routes take."""
    app.add_api_route("/docs", lambda: HTMLResponse(jobs_docs.page(ADDRESS, service.schemas())), methods=["GET"], include_in_schema=False)


def _answers(code: int, text: str, schema: dict[str, Any], refusals: Sequence[int]) -> dict[int | str, dict[str, Any]]:
    why = {
        403: "asked by a page of another site", 404: "there is no such job", 409: "the file is there already, or there is no result (yet)",
        413: "the body is too large", 415: "the header Content-Type: application/json is missing", 429: "too many jobs are waiting",
        422: "the body is no JSON, or an option is wrong; the sentence says which",
    }  # fmt: skip
    return {
        code: {"description": text, "content": {"application/json": {"schema": schema}}},
        **{refusal: {"description": why[refusal]} for refusal in refusals},
    }


def _starter(service: JobService, tool: str) -> Callable[..., Any]:
    async def start(
        request: Request, replace: bool = Query(False, description="write over a file that is there already")
    ) -> dict[str, Any]:
        given = await _body(request)
        return _told(service, lambda: service.start(tool, given, replace))

    return start


def _unknown(service: JobService) -> Callable[..., Any]:
    def unknown(tool: str) -> dict[str, Any]:
        return _told(service, lambda: service.start(tool, {}))

    return unknown


def _asker(service: JobService, ask: Callable[[str], dict[str, Any]]) -> Callable[..., Any]:
    def answer(job_id: str) -> dict[str, Any]:
        return _told(service, lambda: ask(job_id))

    return answer


def _told(service: JobService, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask()
    except LycorisError as error:
        raise HTTPException(service.code(error), storable(service.sentence(str(error)))) from error


async def _body(request: Request) -> dict[str, Any]:
    """Return the table that was sent. It must be sent as JSON, which a form of another site cannot do."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send the options as JSON, with the header Content-Type: application/json")
    text = b""
    async for piece in request.stream():  # as it comes: what is too large is never held
        text += piece
        if len(text) > LARGEST:
            raise HTTPException(413, f"the request has more than {LARGEST} bytes; a list of options has less", {"Connection": "close"})
    try:
        found = parse_json(text)
    except ValueError as error:
        raise HTTPException(422, f"the body cannot be read as JSON: {reason(error)}") from error
    if not isinstance(found, dict):
        raise HTTPException(422, 'the body must be a table of options, such as {"models": ["style"], "save_to": "merged"}')
    return found


def password_check(given: str) -> Callable[..., None]:
    """Return a dependency of routes that asks for one of these `name:password,name:password`."""
    known = dict(pair.split(":", 1) for pair in given.split(",") if ":" in pair)
    scheme = HTTPBasic()

    def check(credentials: HTTPBasicCredentials = Depends(scheme)) -> None:  # noqa: B008
        expected = known.get(credentials.username)
        if expected is None or not secrets.compare_digest(credentials.password.encode(), expected.encode()):
            raise HTTPException(401, "Incorrect username or password", headers={"WWW-Authenticate": "Basic"})

    return check
