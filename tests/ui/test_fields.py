"""Sentences of the tools on a page: options are called as the fields are."""

from __future__ import annotations

from lib_lycoris.tools import TOOLS
from lib_lycoris.ui.parts.tools.fields import with_fields


def test_a_sentence_speaks_of_the_pages_fields() -> None:
    assert with_fields("it is `models`", TOOLS["verify"]) == 'it is "Networks that were merged"'
    assert with_fields("it is `models`", TOOLS["merge"]) == 'it is "Networks"'
    said = "`concat` keeps all ranks and is exact, `dim=4` would not be; give only one of them"
    assert with_fields(said, TOOLS["networks_merge"]).startswith('"Concat" keeps all ranks and is exact, "Rank" 4 would not be')
