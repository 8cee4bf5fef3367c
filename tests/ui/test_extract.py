"""Extract, Resize, Convert, Bake in the browser: what is drawn beforehand is what is written afterwards."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lycoris import load
from lib_lycoris.demo import CHECKPOINT, NETWORKS
from lib_lycoris.errors import LycorisError, ToolError
from lib_lycoris.networks.reading.header import read_metadata
from lib_lycoris.prompt import Presets
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.declaration import RULES
from lib_lycoris.tools.examine.network_spectra import network_spectra
from lib_lycoris.tools.extract import extract, measure
from lib_lycoris.tools.files.checkpoints.checkpoint import open_checkpoint
from lib_lycoris.tools.files.store import ModelFile
from lib_lycoris.tools.jobs.progress import Cancelled, Progress
from lib_lycoris.tools.jobs.queue import Jobs
from lib_lycoris.tools.linalg.size_curve import CurveRequest, Spectra
from lib_lycoris.tools.merge import checkpoint as merge
from lib_lycoris.tools.reshape import resize
from lib_lycoris.tools.units import MB
from lib_lycoris.ui.context import PageContext
from lib_lycoris.ui.pages import extract as extract_page
from lib_lycoris.ui.pages.change import NONE, ChangePage, _asked
from lib_lycoris.ui.pages.extract import ExtractPage
from lib_lycoris.ui.pages.inspect import InspectPage
from lib_lycoris.ui.parts import figures as figures_module
from lib_lycoris.ui.parts.curve import sentence
from lib_lycoris.ui.parts.tools.live_plan import as_html
from lib_lycoris.ui.parts.tools.rank_choice import FIXED, SIZE, RankChoice
from lib_lycoris.ui.parts.tools.tool_form import ToolForm
from tests.tools.test_extract import LORAS, network_file, random_weights

IN_PROJ = "conditioner.embedders.1.model.transformer.resblocks.0.attn"
SDXL = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k"


@dataclass
class Folders:
    """A store over one folder for each kind of file."""

    root: Path

    def networks(self) -> list[ModelFile]:
        return [ModelFile(path.stem, path) for path in sorted(self.network_folder().glob("*.safetensors"))]

    def checkpoints(self) -> list[ModelFile]:
        return [ModelFile(path.stem, path) for path in sorted(self.checkpoint_folder().glob("*.safetensors"))]

    def network_folder(self) -> Path:
        return self._made("nets")

    def checkpoint_folder(self) -> Path:
        return self._made("models")

    def data_folder(self) -> Path:
        return self._made("data")

    def kept_folder(self) -> Path:
        return self._made("data")

    def loaded(self) -> ModelFile | None:
        return None

    def presets(self) -> Presets:
        return Presets.default()

    def refresh(self) -> None:
        """Nothing is remembered."""

    def _made(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path


@pytest.fixture
def context(tmp_path: Path) -> Iterator[PageContext]:
    """A context with an original checkpoint, one tuned in everything but a bias, and a network."""
    jobs = Jobs()
    made = PageContext(store=Folders(tmp_path), jobs=jobs, send="Generate")
    weights = random_weights(1)
    save_file(weights, made.store.checkpoint_folder() / "base.safetensors")
    g = torch.Generator().manual_seed(7)
    tuned = {key: value + 0.1 * torch.randn(value.shape, generator=g) for key, value in weights.items()}
    same = next(key for key in weights if key.endswith("fc1.bias"))
    save_file({**tuned, same: weights[same]}, made.store.checkpoint_folder() / "tuned.safetensors")
    network_file(made.store.network_folder(), LORAS, 5)
    yield made
    jobs.close()


def files_of(context: PageContext) -> dict[str, Path]:
    folder = context.store.checkpoint_folder()
    return {"model_org": folder / "base.safetensors", "model_tuned": folder / "tuned.safetensors"}


ASKED: list[dict[str, Any]] = [
    {"dim": 1}, {"dim": 4}, {"dim": 16, "conv_dim": 3}, {"dim": 128}, {"dim": 8, "algorithm": "lora"},
    {"dim": 6, "text_encoder": False, "save_precision": "fp32"}, {"dim": 5, "style": "diffusers"},
    {"rule": "energy", "value": 0.8, "dim": 128}, {"rule": "ratio", "value": 0.5, "dim": 128},
    {"rule": "quantile", "value": 0.6, "dim": 128},
    {"rule": "threshold", "value": 0.9, "dim": 20, "conv_value": 0.5}, {"rule": "sv_ratio", "value": 3.0, "dim": 128},
    {"size": 0.03, "dim": 128}, {"size": 0.028, "dim": 6, "conv_dim": 2}, {"size": 0.0245, "dim": 128, "algorithm": "lora"},
]  # fmt: skip


@pytest.mark.parametrize("options", ASKED, ids=str)
def test_the_curve_tells_the_size_and_the_error_of_the_file_that_is_written(
    options: dict[str, Any], context: PageContext, tmp_path: Path
) -> None:
    place = tmp_path / "spectra.safetensors"
    measure.run(**files_of(context), save_to=place, whole=True, style=options.get("style"))
    point = measure.read(place).point(CurveRequest.of(options))
    report = extract.run(**files_of(context), **options, save_to=tmp_path / "x.safetensors").report
    assert point.error == pytest.approx(report["error"], abs=1e-3)
    assert point.bytes == pytest.approx((tmp_path / "x.safetensors").stat().st_size, rel=0.01)


def test_the_error_is_that_of_the_network_when_it_is_loaded(context: PageContext, tmp_path: Path) -> None:
    files = files_of(context)
    spectra = measure.measure(measure._understand(files))
    extract.run(**files, dim=4, save_to=tmp_path / "x.safetensors", save_precision="fp32")
    network = load(tmp_path / "x.safetensors", open_checkpoint(files["model_org"]).base)
    old, new = load_file(files["model_org"]), load_file(files["model_tuned"])
    left = total = 0.0
    checkpoint = open_checkpoint(files["model_org"])
    for layer in spectra.layers:
        key = checkpoint.places(layer.name)[0].key
        delta = (new[key] - old[key]).double()
        total += float(delta.square().sum())
        if layer.name in network.patches:
            delta = delta - network.patches[layer.name].delta(old[key]).double()
        left += float(delta.square().sum())
    assert spectra.point(CurveRequest(dim=4)).error == pytest.approx((left / total) ** 0.5, abs=1e-3)


def test_parts_of_a_fused_layer_have_spectra_of_their_own(tmp_path: Path) -> None:
    """SDXL's second text encoder keeps q, k and v in one weight; kohya's file has a module for each."""
    g = torch.Generator().manual_seed(1)
    base = {f"{SDXL}.weight": torch.randn(32, 2048, generator=g), f"{IN_PROJ}.in_proj_weight": torch.randn(96, 32, generator=g),
            f"{IN_PROJ}.in_proj_bias": torch.zeros(96)}  # fmt: skip
    tuned = {key: value + 0.3 * torch.randn(value.shape, generator=g) for key, value in base.items()}
    tuned[f"{IN_PROJ}.in_proj_weight"][:32] *= 3  # the parts are of different sizes
    files = {"model_org": tmp_path / "a.safetensors", "model_tuned": tmp_path / "b.safetensors"}
    for path, tensors in zip(files.values(), (base, tuned)):
        save_file(tensors, path)
    for options in ({"dim": 5}, {"dim": 64, "rule": "energy", "value": 0.7}, {"dim": 64, "size": 0.05}):
        measure.run(**files, save_to=tmp_path / "s.safetensors")
        spectra = measure.read(tmp_path / "s.safetensors")
        assert sorted(len(layer.parts) for layer in spectra.layers if layer.factorised) == [1, 3]
        report = extract.run(**files, **options, save_to=tmp_path / "x.safetensors").report
        point = spectra.point(CurveRequest.of(options))
        assert point.error == pytest.approx(report["error"], abs=1e-3)
        assert point.bytes == pytest.approx(report["bytes"], rel=0.01)


RESIZES = [{"new_rank": 2}, {"new_rank": 2, "new_conv_rank": 1}, {"dynamic_method": "sv_fro", "dynamic_param": 0.9}, {"size": 0.0095},
           {"dynamic_method": "sv_ratio", "dynamic_param": 2.0}, {"new_rank": 1, "save_precision": "fp16"}]  # fmt: skip
KINDS = [LORAS, {"attn1.to_q": "loha", "proj_in": "lora", "conv": "lora_tucker", "fc1": "lora"}, {"attn1.to_q": "lokr", "fc1": "lora"}]


@pytest.mark.parametrize("options", RESIZES, ids=str)
@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: kinds["attn1.to_q"])
def test_the_curve_of_a_resize_tells_its_size_and_error(kinds: dict[str, str], options: dict[str, Any], tmp_path: Path) -> None:
    save_file(random_weights(1), tmp_path / "base.safetensors")
    path = network_file(tmp_path, kinds, 3)
    spectra, whole = network_spectra(path, tmp_path / "base.safetensors")
    point = spectra.point(_asked(whole, options))
    given = {**options, "model": path, "base_model": tmp_path / "base.safetensors", "save_to": tmp_path / "x.safetensors"}
    report = resize.run(**given).report
    assert point.error == pytest.approx(report["error"], abs=1e-3)
    assert point.bytes == pytest.approx(report["bytes"], rel=0.02)
    assert resize.plan(**given).disk_bytes == pytest.approx(report["bytes"], rel=0.02)


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: kinds["attn1.to_q"])
def test_the_curve_of_a_resize_is_exact_at_any_size(kinds: dict[str, str], tmp_path: Path) -> None:
    """Beside the size at which one more rank fits, a few bytes of the header decide."""
    save_file(random_weights(1), tmp_path / "base.safetensors")
    path = network_file(tmp_path, kinds, 3)
    spectra, whole = network_spectra(path, tmp_path / "base.safetensors")
    compared = 0
    for step in range(44, 120, 2):
        given = {"size": step / 1e4, "model": path, "base_model": tmp_path / "base.safetensors", "save_to": tmp_path / "x.safetensors"}
        try:
            report = resize.run(**given).report
        except ToolError as error:
            if not re.search("too little|nothing to resize", str(error)):
                raise
            continue
        point, compared = spectra.point(_asked(whole, {"size": step / 1e4})), compared + 1
        assert point.error == pytest.approx(report["error"], abs=1e-5), step
        assert point.bytes == resize.plan(**given).disk_bytes == report["bytes"] <= 100 * step
    assert compared > 20


def test_a_curve_falls_and_is_remembered(context: PageContext) -> None:
    spectra = measure.measure(measure._understand(files_of(context)), whole=True)
    for asked in (
        CurveRequest(),
        CurveRequest(size=0.03, dim=128),
        *(CurveRequest(rule=rule, dim=128) for rule in ("energy", "threshold", "ratio")),
    ):
        points = spectra.curve(asked)
        sizes, errors = [p.bytes for p in points], [p.error for p in points]
        assert len(points) >= 8 and sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
        assert spectra.curve(asked) is points
    assert [p.setting for p in spectra.curve(CurveRequest())] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    assert spectra.curve(CurveRequest())[-1].error == 0


def test_what_was_not_measured_is_a_sentence(context: PageContext, tmp_path: Path) -> None:
    spectra = measure.measure(measure._understand(files_of(context)))
    for asked, words in (
        (CurveRequest(dim=200), "up to rank 128, but 200"),
        (CurveRequest(rule="quantile", value=0.5), "needs all singular values"),
        (CurveRequest(size=0.001), "too little"),
    ):
        with pytest.raises(ToolError, match=words):
            spectra.point(asked)
    with pytest.raises(ToolError, match="known beforehand for lora and locon, but got lokr"):
        CurveRequest.of({"algorithm": "lokr"})
    with pytest.raises(ToolError, match="nothing is changed"):
        Spectra((), "sd1", 0).point(CurveRequest())
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ToolError, match=r"other\.safetensors does not hold what measure writes"):
        measure.read(tmp_path / "other.safetensors")


def test_spectra_are_kept_for_the_files_as_they_are(context: PageContext) -> None:
    files, folder = files_of(context), context.store.data_folder()
    first = measure.cache_file(folder, files)
    assert first == measure.cache_file(folder, files) and first.parent.name == "spectra"
    assert measure.cache_file(folder, {**files, "whole": True}) != first
    weights = load_file(files["model_tuned"])
    save_file({**weights, "more": torch.zeros(3)}, files["model_tuned"])
    assert measure.cache_file(folder, files) != first
    with pytest.raises(ToolError, match=r"gone\.safetensors cannot be read"):
        measure.cache_file(folder, {**files, "model_org": folder / "gone.safetensors"})


def test_only_the_newest_spectra_are_kept(tmp_path: Path) -> None:
    (tmp_path / "spectra").mkdir()
    for number in range(measure.KEPT + 3):
        (tmp_path / "spectra" / f"{number:03}.safetensors").touch()
        (tmp_path / "spectra" / f"{number:03}.safetensors").stat()
    measure.tidy(tmp_path)
    assert len(list((tmp_path / "spectra").iterdir())) == measure.KEPT


def test_a_stopped_measurement_leaves_nothing(context: PageContext, tmp_path: Path) -> None:
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        measure.run(progress=progress, **files_of(context), save_to=tmp_path / "s.safetensors")
    assert not list(tmp_path.glob("*.safetensors*")) and not list(tmp_path.glob(".*part"))


def test_the_report_of_an_extraction_has_the_blocks(context: PageContext, tmp_path: Path) -> None:
    report = extract.run(**files_of(context), dim=2, save_to=tmp_path / "x.safetensors").report
    total = sum(facts["change"] ** 2 for facts in report["blocks"].values())
    left = sum(facts["left"] ** 2 for facts in report["blocks"].values())
    assert set(report["blocks"]) == {"BASE", "IN01"} and (left / total) ** 0.5 == pytest.approx(report["error"], abs=1e-6)


def built(context: PageContext, page: Any) -> Any:
    """Build a page as an app does."""
    with gr.Blocks() as blocks, gr.Tabs(), gr.Tab("page"):
        page.build()
    with blocks:
        context.finish(blocks)
    return page


def values_of(components: list[Any], **given: Any) -> list[Any]:
    """Return the components' values at the start, some of them changed: by the last part of the elements' ids."""
    found = [component.value for component in components]
    for name, value in given.items():
        at = [index for index, c in enumerate(components) if c.elem_id.split("_", 2)[2] == name]  # lyco_extract_rank
        assert len(at) == 1, name
        found[at[0]] = value
    return found


@pytest.fixture
def page(context: PageContext) -> ExtractPage:
    return built(context, ExtractPage(context))  # type: ignore[no-any-return]


def extraction(page: ExtractPage, **given: Any) -> list[Any]:
    return values_of(page.inputs, **{"org": "base", "tuned": "tuned", **given})


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was drawn, in order."""
    found: list[Any] = []
    draw = figures_module.image_of
    monkeypatch.setattr(figures_module, "image_of", lambda figure: found.append(figure) or draw(figure))
    return found


def test_two_files_and_a_click_make_a_network(page: ExtractPage, context: PageContext, figures: list[Any]) -> None:
    """The three decisions: original, tuned, run."""
    updates = list(page.panel.make_and_run(page.make, extraction(page)))
    assert "Done" in updates[-1][0]["value"] and "relative error" in updates[-1][2]["value"]
    path = context.store.network_folder() / "tuned-locon.safetensors"
    assert path.is_file()
    tag, plot = updates[-1][5], updates[-1][6]
    assert "&lt;lyco:tuned-locon:1&gt;" in tag["value"] and "Send to Generate" in tag["value"]
    assert plot["visible"] and 'alt="The checkpoints&#x27; difference, block by block' in plot["value"]
    assert [label.get_text() for label in figures[-1].axes[0].get_xticklabels()] == ["BASE", "IN01"]
    assert page.make(*extraction(page))[1]["save_to"].name == "tuned-locon-2.safetensors"


def test_measured_once_the_curve_follows_the_fields(
    page: ExtractPage, context: PageContext, monkeypatch: pytest.MonkeyPatch, figures: list[Any]
) -> None:
    watched = [part for part in page.inputs if part is not page.fields["name"]]
    fields = values_of(watched, org="base", tuned="tuned", rank=4)
    said, plot, more, _ = page.curve.draw(*fields)
    assert "Press Preview sizes" in said["value"] and plot["visible"] is False and more["visible"] is False
    last = list(page.panel.make_and_run(page.make_measure, extraction(page, rank=4)))[-1]
    assert "Done" in last[0]["value"]
    monkeypatch.setattr(measure, "run", None)  # from here on nothing is measured
    drawn = last[7:]  # the job's end draws the curve
    assert drawn[1]["visible"] is True
    for rank in (4, 9):
        said, plot, more, _ = page.curve.draw(*values_of(watched, org="base", tuned="tuned", rank=rank))
        wanted = extract.run(**files_of(context), dim=rank, save_to=context.store.data_folder() / f"{rank}.safetensors").report
        mark = next(line for line in figures[-2].axes[0].lines if line.get_marker() == "D")
        assert mark.get_xdata()[0] * MB == pytest.approx(wanted["bytes"], rel=0.01)
        assert mark.get_ydata()[0] / 100 == pytest.approx(wanted["error"], abs=1e-3)
        assert f"error {wanted['error']:.1%}" in said["value"] and more["visible"] is True
        assert {line.get_xdata()[0] for line in figures[-1].axes[0].lines if line.get_marker() == "D"} == {rank}


def test_the_curve_has_nothing_for_other_algorithms_and_says_so(page: ExtractPage) -> None:
    watched = [part for part in page.inputs if part is not page.fields["name"]]
    said = page.curve.draw(*values_of(watched, org="base", tuned="tuned", algorithm="lokr"))[0]["value"]
    assert "known beforehand for lora and locon; of lokr" in said
    assert page.curve.draw(*values_of(watched))[0]["value"].count("Press Preview sizes") == 1


def test_of_many_changes_the_last_is_drawn(page: ExtractPage, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(page.curve, "draw", lambda *values: drawn.append(values) or ["drawn"])
    threads = [threading.Thread(target=page.curve._follow, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
        thread.join(0.005)
    for thread in threads:
        thread.join()
    assert drawn == [(5,)]


def test_a_drawing_that_ends_after_a_newer_one_is_not_shown(page: ExtractPage, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, newer_is_done, shown = threading.Event(), threading.Event(), {}

    def draw(number: int) -> list[Any]:
        if number == 0:
            begun.set()
            newer_is_done.wait(10)
        return [number]

    monkeypatch.setattr(page.curve, "draw", draw)
    slow = threading.Thread(target=lambda: shown.update(slow=page.curve._follow(0)))
    slow.start()
    assert begun.wait(10) and page.curve._follow(1) == [1]
    newer_is_done.set()
    slow.join()
    assert all("value" not in update for update in shown["slow"])


@pytest.mark.parametrize(
    "given, words",
    [
        ({"org": None}, "no checkpoint is chosen"), ({"tuned": "tund"}, "the nearest in the list: tuned"),
        ({"tuned": "base"}, "are the same file"), ({"name": "../x"}, "leads outside"), ({"name": "net"}, "is there already"),
        ({"rank": None}, "Rank: a number is missing"), ({"conv_dim": "many"}, "Rank of convolutions is many, but a whole number"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_a_sentence(page: ExtractPage, given: dict[str, Any], words: str) -> None:
    *_, last = page.panel.make_and_run(page.make, extraction(page, **given))
    assert words in last[2]["value"]


def test_fields_become_options(page: ExtractPage) -> None:
    def options(**given: Any) -> dict[str, Any]:
        found = page.make(*extraction(page, **given))[1]
        return {key: found.get(key) for key in ("algorithm", "dim", "conv_dim", "rule", "value", "size")}

    plain = {"algorithm": "locon", "dim": 12, "conv_dim": None, "rule": "fixed", "value": 0.0, "size": None}
    assert options(rank=12) == plain
    assert options(rank=12, conv_dim="4") == {**plain, "conv_dim": 4}
    assert options(rule="a share of the change's energy", share=0.8, largest=64) == {**plain, "dim": 64, "rule": "energy", "value": 0.8}
    assert options(rule=SIZE, size=3, largest=64) == {**plain, "dim": 64, "rule": None, "value": None, "size": 3.0}
    assert options(algorithm="ia3", rank=None) == {"algorithm": "ia3", **dict.fromkeys(("dim", "conv_dim", "rule", "value", "size"))}


def test_only_the_fields_of_the_rule_are_seen(page: ExtractPage) -> None:
    def seen(algorithm: str, rule: str) -> list[bool]:
        return [update["visible"] for update in page.visible(algorithm, rule)[1:]]

    assert seen("locon", FIXED) == [True, True, False, False, False, False]
    assert seen("locon", SIZE) == [True, False, False, True, False, True]
    assert seen("loha", "a share of the singular values' sum") == [True, False, True, False, False, True]
    assert not any(seen("full", FIXED))
    assert "(IA)³: good for styles" in page.visible("ia3", FIXED)[0]["value"]


def test_the_sentence_reads_the_curve_aloud(context: PageContext) -> None:
    spectra = measure.measure(measure._understand(files_of(context)))
    point = spectra.point(CurveRequest(dim=4))
    assert sentence(CurveRequest(dim=4), replace(point, bytes=3 * MB, error=0.5)) == (
        "rank 4: about 3.0 MB, relative error 50.0% (75.0% of the change's energy is kept)"
    )


@pytest.fixture
def change(context: PageContext) -> ChangePage:
    return built(context, ChangePage(context))  # type: ignore[no-any-return]


def run_form(change: ChangePage, label: str, **given: Any) -> tuple[dict[str, Any], ...]:
    return run_one(change.forms[label], **given)


def run_one(form: ToolForm, **given: Any) -> tuple[dict[str, Any], ...]:
    *_, last = form.panel.make_and_run(form.make, values_of(form.inputs, **given))
    return last


def test_resize_convert_bake_and_prune_write_what_they_say(change: ChangePage, context: PageContext) -> None:
    nets = context.store.network_folder()
    done = run_form(change, "Resize", model="net", base_model="base", rank=1)
    assert "&lt;lyco:net-resized:1&gt;" in done[-1]["value"]
    ranks = {value.shape[0] for key, value in load_file(nets / "net-resized.safetensors").items() if key.endswith("lora_down.weight")}
    assert ranks == {1}
    run_form(change, "Convert", model="net", base_model="base", style="diffusers")
    assert any(key.endswith("lora_A.weight") for key in load_file(nets / "net-converted.safetensors"))
    run_form(change, "Bake", model="net", sd_model="base", ratio=0.5)
    old, new = load_file(nets / "net.safetensors"), load_file(nets / "net-baked.safetensors")
    up = next(key for key in old if key.endswith("lora_up.weight"))
    assert torch.equal(new[up], old[up] * 0.5)
    done = run_form(change, "Prune", model="net", name="less")
    assert (
        any("nothing to prune" in str(part) for part in done) and not (nets / "less.safetensors").exists()
    )  # each of its layers changes something


def test_metadata_is_written_to_a_copy_or_to_the_file_itself(context: PageContext) -> None:
    form = built(context, InspectPage(context)).metadata
    name = context.store.networks()[0].name
    path = next(file.path for file in context.store.networks() if file.name == name)
    before = path.read_bytes()
    run_one(form, models=[name], title="New title")
    copy = context.store.network_folder() / f"{path.stem}-described.safetensors"
    assert read_metadata(copy)["modelspec.title"] == "New title" and path.read_bytes() == before
    copied = next(file.name for file in context.store.networks() if file.path == copy)
    run_one(form, models=[copied], author="me", in_place=True)
    assert read_metadata(copy)["modelspec.author"] == "me"
    run_one(form, models=[copied], undo=True)
    assert "modelspec.author" not in read_metadata(copy)


def test_block_weights_are_written_out(change: ChangePage) -> None:
    form = change.forms["Bake"]

    def weights(**given: Any) -> str | None:
        return form.make(*values_of(form.inputs, model="net", **given))[1].get("lbw")

    assert weights() is None and weights(preset=NONE) is None
    assert weights(preset="INS") == Presets.default().weights("INS").format()
    assert weights(preset="INS", weights=" 1,0 ") == "1,0"
    with pytest.raises(LycorisError, match="number is missing"):
        form.make(*values_of(form.inputs, model="net", ratio=None))


def test_a_resize_is_drawn_before_it_is_done(change: ChangePage, context: PageContext, figures: list[Any]) -> None:
    form: Any = change.forms["Resize"]
    watched = [part for part in form.inputs if part is not form.name]
    said, plot, _, values = form.curve.draw(*values_of(watched, model="net", base_model="base", rank=1))
    wanted = resize.run(model=context.store.network_folder() / "net.safetensors", base_model=files_of(context)["model_org"], new_rank=1,
                        save_to=context.store.data_folder() / "x.safetensors").report  # fmt: skip
    mark = next(line for line in figures[-2].axes[0].lines if line.get_marker() == "D")
    assert mark.get_ydata()[0] / 100 == pytest.approx(wanted["error"], abs=1e-3)
    assert mark.get_xdata()[0] * MB == pytest.approx(wanted["bytes"], rel=0.02)
    assert f"{wanted['captured']:.1%} of the change" in said["value"]
    assert len(figures[-1].axes[0].get_lines()) >= 3 and "<img" in plot["value"] and "<img" in values["value"]
    assert "rank 3" in form.curve.draw(*values_of(watched, model="net"))[0]["value"]  # a resize needs no base model: all ranks are kept


def test_a_checkpoint_that_fits_is_offered_and_taken(change: ChangePage, context: PageContext) -> None:
    shutil.copy(NETWORKS / "demo-lora.safetensors", context.store.network_folder())
    shutil.copy(CHECKPOINT, context.store.checkpoint_folder())
    form, ready = change.forms["Resize"], lambda *_: True

    def planned(base: str, rank: int = 2) -> str:
        values = values_of(form.inputs, model="demo-lora", base_model=base, rank=rank)
        return str(form.plan.update(form.make, ready, values, 0.0)["value"])

    assert "It fits demo-scenes." in planned("base", 64)  # where there is nothing to do too, which is said then
    assert "nothing to resize" in planned("demo-scenes", 64)
    said = planned("base")
    assert "fits no layer of" in said and "It fits demo-scenes." in said
    assert form.plan.offered() == {**form.plan.offered(), "value": "Use demo-scenes", "visible": True}
    assert form.pickers["base_model"].take("demo-scenes")["value"] == context.settings.get("resize", "base_model") == "demo-scenes"
    assert "216 of 216" in planned("demo-scenes") and form.plan.offered()["visible"] is False
    (context.store.checkpoint_folder() / "demo-scenes.safetensors").unlink()
    assert "fits no layer of" in planned("base") and form.plan.offered()["visible"] is False  # of those that are there none fits


def test_the_inputs_of_a_merge_are_found_in_the_folders_that_the_pages_know(change: ChangePage, context: PageContext) -> None:
    models, nets = context.store.checkpoint_folder(), context.store.network_folder()
    merge.run(sd_model=models / "base.safetensors", models=[nets / "net.safetensors"], save_to=models / "merged.safetensors")
    (nets / "net.safetensors").rename(nets / "renamed.safetensors")
    said = run_form(change, "Verify a merge", merged="merged")[2]["value"]
    assert "are, bit by bit, what the recipe gives" in said and "net.safetensors is called renamed.safetensors here" in said


def test_undo_finds_its_file_or_says_what_it_looked_for(change: ChangePage, context: PageContext) -> None:
    *_, last = change.forms["Undo a merge"].panel.make_and_run(
        change.forms["Undo a merge"].make, values_of(change.forms["Undo a merge"].inputs, merged="base")
    )
    assert "there is no base.undo beside base.safetensors" in last[2]["value"]
    (context.store.checkpoint_folder() / "base.undo").touch()
    form = change.forms["Undo a merge"]
    options = form.make(*values_of(form.inputs, merged="base"))[1]
    assert (
        options["undo_file"].name == "base.undo" and options["save_to"] == context.store.checkpoint_folder() / "base-restored.safetensors"
    )


def test_every_form_has_the_options_that_its_tool_requires(change: ChangePage) -> None:
    for form in change.forms.values():
        known = {option.name for option in (*form.picked, *form.front.options, *form.rest.options)} | {"undo_file"}
        known |= {form.output.name} if form.output else set()
        assert {option.name for option in form.tool.options if option.required} <= known


def test_every_form_shows_the_plan_of_its_tool(change: ChangePage, tmp_path: Path) -> None:
    folder = tmp_path
    files: dict[str, Any] = {"sd_model": CHECKPOINT, "models": [NETWORKS / "demo-lora.safetensors"]}
    TOOLS["merge"].run(**files, save_to=folder / "planned.safetensors", undo_file=folder / "planned.undo")
    given: dict[str, dict[str, Any]] = {
        "verify": {"merged": folder / "planned.safetensors", **files},
        "undo": {"merged": folder / "planned.safetensors", "undo_file": folder / "planned.undo", "save_to": folder / "new.safetensors"},
        "find": {"library": [NETWORKS / "demo-lora.safetensors"], "model": NETWORKS / "demo-lora.safetensors"},
        "split": {"model": NETWORKS / "demo-dylora.safetensors", "unit": 2},
        "prune": {"model": folder / "half-dead.safetensors"},
    }
    half_dead = {"q.lora_up.weight": torch.ones(8, 2), "q.lora_down.weight": torch.ones(2, 8)}
    dead = {key.replace("q.", "k."): torch.zeros_like(value) for key, value in half_dead.items()}
    save_file({f"lora_unet_{key}": value for key, value in {**half_dead, **dead}.items()}, folder / "half-dead.safetensors")
    for form in change.forms.values():
        options = given.get(form.page, {"model": NETWORKS / "demo-lora.safetensors"})
        required = {option.name for option in form.tool.options if option.required}
        options |= {"base_model": files["sd_model"]} if "base_model" in required else {}
        options |= {"save_to": folder / "new.safetensors"} if "save_to" in required else {}
        options |= {"new_rank": 1} if form.page in ("resize", "slim") else {}
        shown = as_html(form.tool.plan(**options), form.tool, form.context.store)
        assert "<dt>time</dt>" in shown and "lyco_plan_text" in shown, form.page


def test_the_rules_of_a_choice_are_the_tools() -> None:
    choice = RankChoice("x", extract_page.RULES, 8, with_largest=True)
    assert set(choice.rules.values()) - {""} <= set(RULES)
