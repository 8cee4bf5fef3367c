"""The guidance on the pages: it says what the README says."""

from __future__ import annotations

from lib_lycoris.tools.guidance.tables import advice_rows, as_markdown, measured_rows, size_rows
from lib_lycoris.ui.parts.guidance import advice_html, guidance_html


def test_page_and_readme_say_the_same() -> None:
    page, readme = guidance_html(), as_markdown()
    assert page.count("<tr>") == 3 + len(advice_rows()) + len(size_rows()) + len(measured_rows())
    for item, cells in advice_rows():
        assert item.sources[0] in page and item.sources[0] in readme
        assert all(cell in readme for cell in cells)
    assert "| LoRA | dim 32 | attn-mlp | 38.0 MB | 228.9 MB |" in readme
    assert "| LoKr | dim 32, factor -1 | 1e-3 | 0.697 | 3.2 MB | 10.8 GB | 2095 |" in readme and "0.743" in page
    assert page.count("method_comparison/image-gen") == readme.count("[PEFT, method comparison]") - 1 == 2  # a rule and the table
    assert "learning more than a LoRA" in advice_html("lokr", "sd1") and "43" not in advice_html("lokr")


def test_links_open_beside_the_page() -> None:
    assert 'rel="noopener noreferrer"' in advice_html("lora") and "kohya&#x27;s" in guidance_html()


def test_of_an_unknown_algorithm_nothing_is_said() -> None:
    assert advice_html("no such thing") == ""
