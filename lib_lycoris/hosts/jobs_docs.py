"""A page that documents the tools' HTTP API: plain HTML made here, where FastAPI's own page loads its parts from another host."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark }
table { border-collapse: collapse } td, th { border: 1px solid #8888; padding: .2rem .5rem; text-align: left; vertical-align: top }
code { white-space: nowrap }
"""
CALLS = (
    ("POST", "TOOL", "starts a job; the body is a JSON table of the tool's options, ?replace=true writes over a file"),
    ("GET", "ID", "tells how far a job is"),
    ("DELETE", "ID", "stops it"),
    ("GET", "ID/result", "gives its report and its files"),
)


def page(address: str, schemas: Mapping[str, tuple[str, dict[str, Any]]]) -> str:
    """Return the page for tools with their summaries and the JSON schemas of their options."""
    tools = "".join(_tool(address, name, summary, schema) for name, (summary, schema) in schemas.items())
    rows = "".join(f"<tr><td><code>{call} {escape(address)}/{what}</code></td><td>{text}</td></tr>" for call, what, text in CALLS)
    head = f'<meta charset="utf-8"><title>LyCORIS API</title><style>{STYLE}</style>'
    intro = '<h1>LyCORIS tools over HTTP</h1><p>For programs: <a href="/openapi.json">openapi.json</a></p>'
    return f'<!doctype html><html lang="en">{head}{intro}<table>{rows}</table>{tools}</html>'


def _tool(address: str, name: str, summary: str, schema: Mapping[str, Any]) -> str:
    rows = "".join(_option(option, facts, option in schema["required"]) for option, facts in schema["properties"].items())
    call = f"POST {escape(address)}/{escape(name)}"
    head = "<tr><th>Option</th><th>Kind</th><th>Default</th><th>Meaning</th></tr>"
    return f'<h2 id="{escape(name)}"><code>{call}</code></h2><p>{escape(summary)}</p><table>{head}{rows}</table>'


def _option(name: str, facts: Mapping[str, Any], required: bool) -> str:
    inner = facts.get("items", facts)
    kind = " | ".join(map(str, inner["enum"])) if "enum" in inner else inner["type"]
    kind = f"list of {kind}" if "items" in facts else kind
    default = "required" if required else "" if facts.get("default") is None else str(facts["default"])
    cells = (f"<code>{escape(name)}</code>", escape(kind), escape(default), escape(facts["description"]))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
