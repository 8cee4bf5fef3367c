"""Follows the imports of our modules as Python does, from their sources: a circle shows only when one certain module comes first."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Partial(Exception):
    """A name is asked of a module that has not come so far."""


@cache
def tree(file: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def source(name: str) -> tuple[ast.ImportFrom | frozenset[str], ...] | None:
    """Return what happens when one of our modules is imported: imports of ours, and the names that are bound between them.

    None for what is no module of ours.
    """
    path = ROOT / name.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        return None
    found: list[ast.ImportFrom | frozenset[str]] = []
    for node in running(tree(file).body):
        if isinstance(node, ast.ImportFrom) and node.level:  # inside the package imports are relative
            found.append(node)
        names = bound(node)
        if found and isinstance(found[-1], frozenset):
            names |= found.pop()
        found.append(names)
    return tuple(found)


def running(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        for inner in ("body", "orelse", "handlers", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                yield from running([n for n in getattr(node, inner, []) if isinstance(n, ast.stmt)])


def first(name: str) -> str | None:
    """Return why a module cannot be the first of ours that is imported, or None."""
    try:
        Run().load(name)
    except Partial as error:
        return str(error)
    return None


class Run:
    """One process: the modules that were begun, with the names that they have so far; None once all are there."""

    def __init__(self) -> None:
        self.names: dict[str, set[str] | None] = {}

    def load(self, name: str) -> None:
        """Import a module after its packages."""
        parts = name.split(".")
        for whole in (".".join(parts[: n + 1]) for n in range(len(parts))):
            statements = source(whole)
            if statements is None or whole in self.names:
                continue
            known: set[str] = set()
            self.names[whole] = known
            for step in statements:
                if isinstance(step, ast.ImportFrom):
                    self.run(whole, step)
                else:
                    known |= step
            self.names[whole] = None

    def run(self, module: str, node: ast.ImportFrom) -> None:
        """Import what a statement of a module wants."""
        target = target_of(module, node.level, node.module or "")
        self.load(target)
        for alias in node.names:
            known = self.names.get(target)
            if known is not None and alias.name not in known and source(f"{target}.{alias.name}") is None:
                raise Partial(f"{module} wants {alias.name} of {target}, which is not done")
            if source(f"{target}.{alias.name}") is not None and (known is None or alias.name not in known):
                self.load(f"{target}.{alias.name}")


@cache
def target_of(module: str, level: int, name: str) -> str:
    """Return what a relative import of a module names, dotted from the top."""
    package = module if (ROOT / module.replace(".", "/")).is_dir() else module.rpartition(".")[0]
    return ".".join([*package.split(".")[: len(package.split(".")) - level + 1], *name.split(".")]).strip(".")


def bound(node: ast.stmt) -> frozenset[str]:
    """Return the names that a statement binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return frozenset(alias.asname or alias.name.split(".")[0] for alias in node.names)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return frozenset([node.name])
    return frozenset(found.id for found in ast.walk(node) if isinstance(found, ast.Name) and isinstance(found.ctx, ast.Store))
