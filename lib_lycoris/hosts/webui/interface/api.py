"""Our part of the webui's HTTP API: list, refresh, inspect; behind --api-auth like the host's own routes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException

from ....errors import LycorisError
from ....plain_json import plain
from ....tools.jobs.service import JobService
from ...jobs_api import add_job_routes, same_site
from ..callbacks import listen
from ..host import host
from . import card_files as files

Inspect = Callable[[Path, str | None], dict[str, Any]]  # a file, and the family that it is read for if the user says one
ADDRESS = "/sdapi/v1"


def register(inspect: Inspect | None, service: JobService | None = None) -> None:
    """Add the routes when the web application starts; without `inspect` there is no route for it, without `service` none for tools."""
    listen("app_started", lambda _, app: add_routes(app, inspect, service))


def add_routes(app: FastAPI, inspect: Inspect | None, service: JobService | None = None) -> None:
    """Add the routes to the host's web application; those of the tools, which write files, where --api asks for an API."""
    guard = host().webui.api_guard()
    guards = [same_site(_origin_allowed), *([guard] if guard else [])]
    options: dict[str, Any] = {"dependencies": [Depends(one) for one in guards], "tags": ["LyCORIS"]}
    app.add_api_route(
        f"{ADDRESS}/lycos", list_networks, methods=["GET"], summary="List networks",
        description="All network files that `<lyco:name>` can use, whatever base model they are for, with their headers' metadata.",
        response_description="One entry a file: name, alias, path, hash, version, algorithms, metadata, problem.", **options,
    )  # fmt: skip
    app.add_api_route(
        f"{ADDRESS}/refresh-lycos", refresh, methods=["POST"], summary="Look for new network files",
        description="Reads the folders again. New files are also found without it when a tag names them.",
        response_description="The number of files found.", **options,
    )  # fmt: skip
    if inspect is not None:
        app.add_api_route(
            f"{ADDRESS}/lycos/inspect", _inspector(inspect), methods=["GET"], summary="Inspect one network",
            description="Reads the whole file: base model, algorithms, ranks, every module, keys that are not used and why, hashes, "
            "training data, problems. `name` is what a tag would use; only files in the scanned folders can be inspected.",
            response_description="The inspection, as `run.py inspect --json` gives it.", **options,
        )  # fmt: skip
    if service is not None and _wants_api():
        add_job_routes(app, service, guards)


def _wants_api() -> bool:
    from modules import shared  # type: ignore[import-not-found,unused-ignore]

    return any(getattr(shared.cmd_opts, name, False) for name in ("api", "nowebui"))


def _origin_allowed(origin: str) -> bool:
    """Tell whether the webui was started with --cors-allow-origins for a site."""
    from modules import shared  # type: ignore[import-not-found,unused-ignore]

    named = (getattr(shared.cmd_opts, "cors_allow_origins", None) or "").split(",")
    pattern = getattr(shared.cmd_opts, "cors_allow_origins_regex", None)
    return origin in named or bool(pattern and re.fullmatch(pattern, origin))


def list_networks() -> list[dict[str, Any]]:
    """Return one entry a file."""
    return [plain(_entry(name, file.path)) for name, file in files.library().named.items()]


def _entry(name: str, path: Path) -> dict[str, Any]:
    found = files.facts(path)
    metadata = {key: value for key, value in files.Metadata(path, found.entries).items() if key != files.COVERS}
    return {
        "name": name, "alias": found.alias or name, "path": str(path), "hash": found.stored_hash or None, "version": found.version,
        "algorithms": found.algorithms, "metadata": metadata, "problem": found.broken or None,
    }  # fmt: skip


def refresh() -> dict[str, int]:
    """Look at the folders again."""
    files.library().refresh()
    return {"count": len(files.library().files)}


def _inspector(inspect: Inspect) -> Callable[..., dict[str, Any]]:
    def inspect_network(name: str, family: str | None = None) -> dict[str, Any]:
        try:
            file = files.library().find(name)
        except LycorisError as error:
            raise HTTPException(status_code=404, detail=str(error)) from error
        try:
            return inspect(file.path, family)
        except LycorisError as error:
            raise HTTPException(status_code=422, detail=str(error)) from error

    return inspect_network
