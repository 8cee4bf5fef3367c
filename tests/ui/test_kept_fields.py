"""What pages keep between visits: read again as it was kept, whatever somebody put into a field or the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_lycoris.ui.settings import Settings


@pytest.mark.parametrize("value", ["\ud800", "é", [1, "x"], {"a": None}])
def test_a_kept_value_is_read_again(value: object, tmp_path: Path) -> None:
    Settings(tmp_path / "pages.json").keep("merge", "name", value)
    assert Settings(tmp_path / "pages.json").get("merge", "name") == value


@pytest.mark.parametrize("value", [10**500, object(), {1, 2}])
def test_what_could_not_be_read_again_is_not_kept_and_costs_nothing_else(value: object, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "pages.json")
    settings.keep("merge", "other", "x")
    settings.keep("merge", "name", value)
    assert Settings(tmp_path / "pages.json").get("merge", "other") == "x"


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[1]", '{"merge": 3}', "\x00", '{"merge": {"name": ' + "9" * 500 + "}}"])
def test_a_broken_file_means_that_nothing_is_kept_yet(text: str, tmp_path: Path) -> None:
    (tmp_path / "pages.json").write_text(text)
    settings = Settings(tmp_path / "pages.json")
    assert settings.get("merge", "name", "default") == "default"
    settings.keep("merge", "name", "new")
    assert Settings(tmp_path / "pages.json").get("merge", "name") == "new"
