"""What the probe asks of our modules inside a webui is there: only a real webui runs it, and renames must not wait for one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.webui.running import PROBE
from tests.webui.server import CHECKOUT

SCRIPTS = sorted(PROBE.rglob("*.py"))


def asked_for(script: Path) -> set[tuple[str, str]]:
    """Return (module, name) of all that a script takes out of our modules by way of ``sys.modules``."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and module_of(node.value):
            bound[node.targets[0].id] = module_of(node.value)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            module = module_of(node.value) or (bound.get(node.value.id, "") if isinstance(node.value, ast.Name) else "")
            found |= {(module, node.attr)} if module else set()
    return found


def module_of(node: ast.expr) -> str:
    """Return X of the expression ``sys.modules["X"]`` where X is ours, else nothing."""
    index = node.slice if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "sys.modules" else None
    name = index.value if isinstance(index, ast.Constant) else ""
    return name if str(name).startswith("lib_lycoris") else ""


def defined(module: str) -> set[str]:
    """Return the names that a module's source defines at its top level."""
    path = CHECKOUT / (module.replace(".", "/") + ".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def test_the_probe_asks_for_something_of_ours() -> None:
    assert ("lib_lycoris.hosts.webui.generate", "WebuiGenerator") in set().union(*map(asked_for, SCRIPTS))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_a_probe_asks_for_is_there(script: Path) -> None:
    for module, name in asked_for(script):
        assert name in defined(module), f"{script.name} asks {module} for {name}, which is not there"
