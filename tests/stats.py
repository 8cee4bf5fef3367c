"""Prints what can be counted about the house: `python -m tests.stats [DIR]`, for this checkout or another one; `--repeated`: where code is.

Files a folder, lines, repeated code, errors of `mypy --strict`, public functions without a docstring, and words that are not the field's.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WINDOW = 4  # lines in a row that are the same in two places
PRIVATE_WORDS = (  # ours instead of the field's; see the list of words that the project keeps
    "misfit", "desk", "shelf", "shelves", "paint", "painter", "paints", "painted", "picture", "pictures", "told", "asked", "wanted",
    "given", "board", "sitting", "beside", "a person", "people", "so many", "for the sake of", "lent", "understand",
)  # fmt: skip

SENTENCES = (  # wordings of the pages, reports and docstrings that were to go, each as it was
    "what every algorithm has in common",
    "the form to be kept by a program",
    "def ready(self, tensor",
    "def misfit",
    "Say why this cannot change",
    "a script without a face",
    "The webui keeps what the text encoders gave",
    "tells us something",
    "Networks in memory: those of the last",
    "the others are told about",
    "Tell whether it was asked to stop",
    "and put on disk by threads meanwhile",
    "What a person or a program gave",
    "Options -> what is asked of each network",
    "Return the same product with no more ranks",
    "one network that does what all of them do",
    "the network that makes one of the other",
    "the program that paints",
    "without keeping it",
    "Return memory of the workspace",
    "is for no base model known here",
    "a castle on a hill <lyco",
    "parameters changed",
    '"not matched"',
    "parameters matched,",
    "would write {save_to}: {size",
    "Done (started at",
    "modules/s - 0 s left",
    "A network for a model of unusual size needs",
    "left out {count}:",
    "split needs the ranks",
    "neither given nor beside",
    "were dead and are left out",
    "modules scaled",
    'gr.Button("Measure"',
    "All values (typed",
    "values came, but a layout",
    "longest bar",
    "Encoder, down",
    "Decoder, up",
    "cannot name a preset",
    "Also write an undo file",
    "Undo: restore the original",
    "Base model, for networks whose change",
    "Optional: {option.help}",
    'option.name.replace("_", " "), option.help',
    "how the rank is chosen up to dim",
    "the same for convolutions",
    "of dare's choice",
    "A network under other names",
    "A network with fewer ranks",
    "Tuned checkpoint, made from it",
    "with how often they were there",
    "hash without the header",
    "short hash, as in infotexts",
    '"Refresh", size=',
    "for a real model",
    'GenerationCancelled."',
    ' kB"',
    "size of the file in MiB",
)


def main(root: Path) -> None:
    sources = sorted((root / "lib_lycoris").rglob("*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in sources}
    folders = Counter(path.parent.relative_to(root) for path in sources)
    print(f"Python files in lib_lycoris: {len(sources)}, lines: {sum(len(text.splitlines()) for text in texts.values())}")
    print(f"lines of tests: {lines(root, 'tests', '*.py')}, of pages of text: {lines(root, 'docs', '*.md') + lines(root, '', '*.md')}")
    print("files a folder: " + ", ".join(f"{folder} {count}" for folder, count in folders.most_common()))
    runs = repeated(texts)
    print(f"repeated code ({WINDOW} lines or more that stand in two places): {sum(run.count for run in runs)} lines in {len(runs)} places")
    print(f"public functions and classes without a docstring: {sum(len(list(bare(text))) for text in texts.values())}")
    print("functions over 40 lines: " + str(sum(len(list(long_functions(text))) for text in texts.values())))
    found = words([*texts.values(), *(path.read_text(encoding="utf-8") for path in [root / "README.md", *sorted(root.glob("docs/*.md"))])])
    print(f"private words: {sum(found.values())} (" + ", ".join(f"{word} {count}" for word, count in found.most_common()) + ")")
    left = [wording for wording in SENTENCES if any(wording in text for text in texts.values())]
    print(f"wordings of ours still there: {len(left)} of {len(SENTENCES)}" + (f" ({'; '.join(left)})" if left else ""))
    print(f"errors of mypy --strict: {strict_errors(root)}")


def lines(root: Path, folder: str, pattern: str) -> int:
    found = (root / folder).glob(pattern) if not folder else (root / folder).rglob(pattern)
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in found)


def code_lines(text: str) -> list[tuple[int, str]]:
    """Return (number, text) of the lines that hold code, without comments, docstrings, imports and brackets alone."""
    comments = {t.start[0]: t.start[1] for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT}
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            skipped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        plain = line[: comments.get(number, len(line))].strip()
        if number not in skipped and re.search(r"\w", plain):
            found.append((number, plain))
    return found


class Run(NamedTuple):
    """Lines in a row that stand in another place too."""

    path: Path
    first: int  # line of the file
    count: int  # lines of code
    text: str  # of the first one


def repeated(texts: Mapping[Path, str]) -> list[Run]:
    """Return the runs of lines that stand in two places or more."""
    windows: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    numbered = {path: code_lines(text) for path, text in texts.items()}
    for path, code in numbered.items():
        for at in range(len(code) - WINDOW + 1):
            windows[tuple(line for _, line in code[at : at + WINDOW])].append((path, at))
    covered: dict[Path, set[int]] = defaultdict(set)
    for places in windows.values():
        for path, at in places if len(places) > 1 else ():
            covered[path].update(range(at, at + WINDOW))
    runs = []
    for path, found in covered.items():
        for start in sorted(at for at in found if at - 1 not in found):
            end = next(at for at in range(start, start + len(numbered[path]) + 1) if at not in found)
            runs.append(Run(path, numbered[path][start][0], end - start, numbered[path][start][1]))
    return runs


def bare(text: str) -> Iterator[str]:
    """Yield public functions, methods and classes without a docstring; what is nested in a function is not public."""
    todo = [ast.parse(text).body]
    while todo:
        for node in todo.pop():
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None:
                yield node.name
            if isinstance(node, ast.ClassDef):
                todo.append(node.body)


def long_functions(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 40:
            yield node.name


def words(texts: list[str]) -> Counter[str]:
    """Count the private words, as words and in compound names."""
    found: Counter[str] = Counter()
    for text in texts:
        plain = re.sub(r"([a-z])([A-Z])", r"\1 \2", text).replace("_", " ").lower()
        found.update({word: len(re.findall(rf"\b{word}\b", plain)) for word in PRIVATE_WORDS})
    return Counter({word: count for word, count in found.items() if count})


def strict_errors(root: Path) -> str:
    """Return how many errors mypy finds with --strict."""
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "/dev/null", "lib_lycoris"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    count = re.search(r"Found (\d+) errors?", done.stdout)
    return count[1] if count else "0" if done.returncode == 0 else f"mypy did not run: {(done.stdout + done.stderr)[-200:]}"


if __name__ == "__main__":
    folders = [Path(word).resolve() for word in sys.argv[1:] if word != "--repeated"]
    if "--repeated" in sys.argv:
        sources = {path: path.read_text(encoding="utf-8") for path in ((folders or [ROOT])[0] / "lib_lycoris").rglob("*.py")}
        for run in sorted(repeated(sources), key=lambda run: (run.text, run.path)):
            print(f"{run.path}:{run.first}: {run.count} lines from: {run.text[:90]}")
    else:
        main((folders or [ROOT])[0])
