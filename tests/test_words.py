"""The field's words: what must not come back into names, help texts, errors and pages."""

import re
from pathlib import Path

from tests.stats import SENTENCES

PACKAGE = Path(__file__).resolve().parent.parent / "lib_lycoris"
INSTEAD = {  # what must not be written -> what is written instead
    r"\bdesk\b": "context",
    r"shel(f|ves)\b": "store",
    r"\b[Pp]aint(s|ed|er|ing)?\b": "generate",
    r"\ba person\b": "the user",
    r"\ba picture\b": "an image",
    r"for the sake of": "for",
}


def test_no_word_of_our_own_stands_where_the_field_has_one() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{path.relative_to(PACKAGE)}:{number}"
            found += [f"{where}: {word}, say {better}" for word, better in INSTEAD.items() if re.search(word, line)]
    assert not found, "\n".join(found)


def test_no_wording_that_was_to_go_is_back() -> None:
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    assert [wording for wording in SENTENCES if any(wording in text for text in texts)] == []


# names that once stood for several things at a time
ONE_MEANING = ("Request", "Change", "Progress", "Source", "Entry", "Asked", "Chosen", "Job", "Workspace", "Cancelled")


def test_one_name_has_one_meaning() -> None:
    defined = re.findall(r"^class (\w+)\b", "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")), re.MULTILINE)
    assert {name: defined.count(name) for name in ONE_MEANING if defined.count(name) > 1} == {}
