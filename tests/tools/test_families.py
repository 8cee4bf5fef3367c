"""Networks of every family between the key styles: the same change, whole layers and their parts, alpha and DoRA kept right."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import lib_lycoris
from lib_lycoris import load
from lib_lycoris.errors import ModelMismatchError, ToolError, UnknownFamilyError
from lib_lycoris.models import FAMILIES, BaseModel, reference, rows, split_parameter
from lib_lycoris.networks import Network
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.declaration import STYLES
from lib_lycoris.tools.files.networks.naming import named

PROBES = 4
KINDS = ("Linear", "Conv2d", "MultiheadAttention")


def some_layers(base: BaseModel) -> list[str]:
    """Return two layers of every set of parts that other styles know layers by, and two of every kind that they know whole."""
    found: dict[object, list[str]] = {}
    for module, info in base.layers.items():
        if info.kind in KINDS and prod(info.shape) < 1 << 29:
            component = base.component_of(module)
            parts = tuple(alias.part for alias in base.aliases(module))
            found.setdefault((component and component.key, info.kind, parts), []).append(module)
    return [module for same in found.values() for module in dict.fromkeys((same[0], same[-1]))]


def random_network(base: BaseModel, style: str, modules: list[str]) -> dict[str, Tensor]:
    """Return a file's tensors in a style: every part with a rank and an alpha of its own, every second layer with DoRA."""
    g = torch.Generator().manual_seed(len(modules))
    tensors: dict[str, Tensor] = {}
    for place, module in enumerate(modules):
        info = base.layers[module]
        for number, item in enumerate(named(base, style, module)):
            out, rank = sum(len(range(*piece.indices(info.shape[0]))) for piece in item.rows), 1 + number
            kernel = tuple(info.shape[2:])
            down, up = torch.randn(rank, info.shape[1], *kernel, generator=g), torch.randn(out, rank, *(1,) * len(kernel), generator=g)
            names = ("lora_A", "lora_B") if style in ("diffusers", "peft", "original") else ("lora_down", "lora_up")
            tensors |= {f"{item.name}.{names[0]}.weight": down, f"{item.name}.{names[1]}.weight": up}
            if names[0] == "lora_down":
                tensors[f"{item.name}.alpha"] = torch.tensor(0.7 * rank)
            if place % 2:
                tensors[f"{item.name}.dora_scale"] = 1 + torch.rand(out, 1, *(1,) * len(kernel), generator=g)
    return tensors


def meant(network: Network) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yield for each parameter what its change does to a few random inputs, and the magnitudes of its outputs."""
    base, found = network.base, {}
    for name, algorithm in network.patches.items():
        module, _, part = split_parameter(name)
        shape = tuple(base.layers[module].shape)
        shape = shape[::-1] if part == "T" else shape
        its = torch.cat([torch.arange(shape[0])[piece] for piece in rows(part, shape)])
        up, down = algorithm.direction.low_rank((len(its), *shape[1:]))  # type: ignore[misc]
        probe = torch.randn(down.shape[1], PROBES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        values = up.double() @ (down.double() @ probe)
        change, magnitude = found.setdefault(
            (module, part == "T"), (torch.zeros(shape[0], PROBES, dtype=torch.float64), torch.zeros(shape[0]))
        )
        change[its] += values
        own = algorithm.output_magnitude((len(its), *shape[1:]))
        if own is not None:
            magnitude[its] = own.float()
    for (module, _), (change, magnitude) in found.items():
        yield module, change, magnitude if bool(magnitude.any()) else None


def same(one: Network, other: Network) -> None:
    mine, its = ({name: (change, magnitude) for name, change, magnitude in meant(network)} for network in (one, other))
    assert mine.keys() == its.keys()
    for name, (change, magnitude) in mine.items():
        assert (change - its[name][0]).norm() <= 1e-6 * change.norm(), name
        assert (magnitude is None) == (its[name][1] is None), name
        assert magnitude is None or torch.allclose(magnitude, its[name][1], rtol=1e-6), name


def read(path: Path, family: str) -> Network:
    network = load(path, reference(family))
    assert not network.skipped and len(set(network.modules.values())) == network.layers
    return network


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_means_the_same_in_every_style(family: str, tmp_path: Path) -> None:
    base = reference(family)
    modules = some_layers(base)
    for style in STYLES:
        path, whole = tmp_path / f"{style}.safetensors", tmp_path / f"{style}-original.safetensors"
        save_file(random_network(base, style, modules), path)
        network = read(path, family)
        convert = TOOLS["convert"].run
        convert(model=path, style="original", save_to=whole)
        same(network, read(whole, family))
        for other in STYLES if style in ("original", "kohya") else ():
            again = tmp_path / f"{style}-to-{other}.safetensors"
            convert(model=whole, style=other, save_to=again)
            same(network, read(again, family))
            again.unlink()


def test_parts_that_were_joined_come_apart_as_they_were(tmp_path: Path) -> None:
    g, tensors = torch.Generator().manual_seed(4), {}
    for rank, part in enumerate(("attn.to_q", "attn.to_k", "proj_mlp"), 2):
        name, rows = f"transformer.single_transformer_blocks.0.{part}", 12288 if part == "proj_mlp" else 3072
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, 3072, generator=g)
        tensors[f"{name}.lora_B.weight"] = torch.randn(rows, rank, generator=g)
    save_file(tensors, tmp_path / "parts.safetensors")
    TOOLS["convert"].run(model=tmp_path / "parts.safetensors", style="kohya", save_to=tmp_path / "joined.safetensors")
    back = {"model": tmp_path / "joined.safetensors", "style": "diffusers", "save_to": tmp_path / "again.safetensors"}
    plan = TOOLS["convert"].plan(**back)
    TOOLS["convert"].run(**back)
    found = load_file(tmp_path / "again.safetensors")
    assert found.keys() == tensors.keys() and all(torch.equal(found[key], tensors[key]) for key in tensors)
    assert plan.disk_bytes == (tmp_path / "again.safetensors").stat().st_size


@pytest.mark.parametrize("style", ["original", "kohya"])
def test_magnitudes_of_some_parts_alone_are_refused_by_name(style: str, tmp_path: Path) -> None:
    name = "transformer.transformer_blocks.0.attn.to_q"
    tensors = {f"{name}.lora_A.weight": torch.rand(2, 3072), f"{name}.lora_B.weight": torch.rand(3072, 2),
               f"{name}.lora_magnitude_vector": torch.rand(3072)}  # fmt: skip
    save_file(tensors, tmp_path / "q.safetensors")
    with pytest.raises(ToolError, match=r"img_attn\.qkv\.weight\[q\]: dora over lora changes a part of a layer"):
        TOOLS["convert"].run(model=tmp_path / "q.safetensors", style=style, save_to=tmp_path / "made.safetensors")
    assert not (tmp_path / "made.safetensors").exists()


def test_the_names_of_comfyui_are_kept_by_default(tmp_path: Path) -> None:
    base = reference("chroma")
    save_file(random_network(base, "original", some_layers(base)), tmp_path / "a.safetensors")
    TOOLS["convert"].run(model=tmp_path / "a.safetensors", save_precision="bf16", save_to=tmp_path / "b.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as one, safe_open(tmp_path / "b.safetensors", "pt") as other:
        assert sorted(one.keys()) == sorted(other.keys())


def attention_only(path: Path) -> Path:
    """Write a network of Flux.1's attention as diffusers names it, which Chroma's and LongCat's layers fit as well."""
    names = ["transformer_blocks.3.attn.to_q", "transformer_blocks.3.attn.to_out.0", "single_transformer_blocks.2.attn.to_v"]
    tensors = {f"transformer.{name}.lora_{letter}.weight": torch.rand(*shape) for name in names
               for letter, shape in (("A", (2, 3072)), ("B", (3072, 2)))}  # fmt: skip
    save_file(tensors, path)
    return path


def test_a_file_that_fits_several_families_names_them_and_the_user_decides(tmp_path: Path) -> None:
    path = attention_only(tmp_path / "attention.safetensors")
    found = lib_lycoris.inspect(path)
    assert found.family == "flux" and {"flux", "chroma", "longcat-image"} <= set(found.candidates)
    assert lib_lycoris.inspect(path, family="chroma").compared_with == "Chroma"
    assert load(path, family="chroma").family == "chroma" and load(path, family="longcat-image").base.label == "LongCat-Image"
    with pytest.raises(UnknownFamilyError, match="chroma"):
        load(path, family="chrom")
    with pytest.raises(ModelMismatchError, match=r"the model is Flux\.1, but `family` asks for Chroma"):
        load(path, reference("flux"), family="chroma")


@pytest.mark.parametrize("tool", ["convert", "resize", "slim", "bake", "merge_networks", "compare"])
def test_every_tool_that_reads_networks_takes_the_family(tool: str, tmp_path: Path) -> None:
    path, made = attention_only(tmp_path / "attention.safetensors"), tmp_path / "made.safetensors"
    options = {"convert": {"style": "original"}, "resize": {"new_rank": 1}, "slim": {"new_rank": 1}, "bake": {"ratio": 0.5}}.get(tool, {})
    files = {"models": [path]} if tool in ("merge_networks", "compare") else {"model": path}
    more = {} if tool == "compare" else {"save_to": made}
    getattr(lib_lycoris, tool)(**files, **more, **options, family="longcat-image")
    if tool == "convert":
        with safe_open(made, "pt") as file:
            assert "diffusion_model.transformer_blocks.3.attn.to_q.lora_A.weight" in file.keys()  # noqa: SIM118 - no mapping
    with pytest.raises(ToolError, match="family is 'fluks'"):
        getattr(lib_lycoris, tool)(**files, **more, **options, family="fluks")


def test_a_network_of_another_family_goes_on_the_layers_that_fit_where_that_is_asked_for(tmp_path: Path) -> None:
    path, names = tmp_path / "flux.safetensors", ["double_blocks.0.img_attn.proj", "double_blocks.0.img_mod.lin", "guidance_in.out_layer"]
    sizes = {"double_blocks.0.img_mod.lin": 6 * 3072}
    tensors = {f"lora_unet_{name.replace('.', '_')}.lora_{side}.weight": torch.rand(*shape) for name in names
               for side, shape in (("down", (2, 3072)), ("up", (sizes.get(name, 3072), 2)))}  # fmt: skip
    save_file(tensors, path)
    with pytest.raises(ModelMismatchError, match=r"is for Flux\.1, but the model is Chroma"):
        load(path, reference("chroma"))
    for network in (load(path, reference("chroma"), other_family=True), load(path, family="chroma")):
        assert network.coverage == "1 of 3 layers" and list(network.modules.values()) == ["lora_unet_double_blocks_0_img_attn_proj"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_networks_that_share_a_family_are_read_for_it_in_any_order(order: tuple[int, int], tmp_path: Path) -> None:
    one, other = attention_only(tmp_path / "one.safetensors"), attention_only(tmp_path / "other.safetensors")
    changed = {key: tensor * 2 for key, tensor in load_file(one).items()}
    save_file(changed, other, metadata={"ss_base_model_version": "chroma"})
    assert (load(one).family, load(other).family) == ("flux", "chroma")
    files = [(one, other)[place] for place in order]
    result = TOOLS["networks_merge"].run(models=files, save_to=tmp_path / "sum.safetensors")
    assert "exactly their sum" in result.text
    merged = load(tmp_path / "sum.safetensors", family="chroma")
    assert not merged.skipped
    for name, patch in load(one, family="chroma").patches.items():
        weight = torch.zeros(3072, 3072)
        torch.testing.assert_close(merged.patches[name].delta(weight), 5 * patch.delta(weight))
    assert TOOLS["compare"].run(models=files).report["family"] == "chroma"


def test_text_encoders_of_one_model_are_merged(tmp_path: Path) -> None:
    for name, width in (("te1", 768), ("te2", 1280)):
        layer = f"lora_{name}_text_model_encoder_layers_0_self_attn_q_proj"
        save_file({f"{layer}.lora_up.weight": torch.rand(width, 2), f"{layer}.lora_down.weight": torch.rand(2, width)}, tmp_path / name)
    files = [(tmp_path / name).rename(tmp_path / f"{name}.safetensors") for name in ("te1", "te2")]
    assert [load(file).family for file in files] == ["sd1", "sdxl"]
    TOOLS["networks_merge"].run(models=files, save_to=tmp_path / "both.safetensors")
    assert load(tmp_path / "both.safetensors").family == "sdxl" and len(load(tmp_path / "both.safetensors").patches) == 2


def test_names_that_others_have_too_do_not_make_a_network_theirs(tmp_path: Path) -> None:
    heights = {"img_attn_qkv": 9216, "img_mlp.fc1": 12288}  # the second is HunyuanVideo's own name
    layers = {f"diffusion_model.double_blocks.{block}.{part}": height for block in range(3) for part, height in heights.items()}
    tensors = {f"{layer}.lora_A.weight": torch.rand(2, 3072) for layer in layers}
    tensors |= {f"{layer}.lora_B.weight": torch.rand(height, 2) for layer, height in layers.items()}
    save_file(tensors, tmp_path / "hunyuan.safetensors")
    assert lib_lycoris.inspect(tmp_path / "hunyuan.safetensors").candidates == ("hunyuan-video",)
    TOOLS["convert"].run(model=tmp_path / "hunyuan.safetensors", style="diffusers", save_to=tmp_path / "renamed.safetensors")
    found = lib_lycoris.inspect(tmp_path / "renamed.safetensors")
    assert found.family == "hunyuan-video" and "its layers would fit" in found.family_reason  # the names alone would be Flux.1's
    TOOLS["convert"].run(model=tmp_path / "renamed.safetensors", style="original", save_to=tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == tensors.keys()
    for layer in layers:
        change = tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
        torch.testing.assert_close(again[f"{layer}.lora_B.weight"] @ again[f"{layer}.lora_A.weight"], change)


def test_names_of_one_of_several_base_models_are_said_to_be_a_guess(tmp_path: Path) -> None:
    path = attention_only(tmp_path / "attention.safetensors")
    options = {"model": path, "style": "original", "save_to": tmp_path / "made.safetensors"}
    said = "the layers are named as those of Flux.1; if the file is for "
    assert said in TOOLS["convert"].plan(**options).text
    text = TOOLS["convert"].run(**options).text
    assert said in text and "HunyuanVideo" in text and "Chroma" not in text  # whose layers have the same names
    assert said not in TOOLS["convert"].run(**options, family="flux").text


@pytest.mark.parametrize("tool", ["bake", "slim"])
def test_what_is_left_of_a_network_is_for_its_base_model(tool: str, tmp_path: Path) -> None:
    attention = load_file(attention_only(tmp_path / "attention.safetensors"))
    own = "transformer.distilled_guidance_layer.layers.0.linear_1"
    tensors = {**attention, f"{own}.lora_A.weight": torch.rand(2, 5120), f"{own}.lora_B.weight": torch.rand(5120, 2)}
    save_file(tensors, tmp_path / "chroma.safetensors")
    assert lib_lycoris.inspect(tmp_path / "chroma.safetensors").candidates == ("chroma",)
    options = {"bake": {"lbwe": ":distilled_guidance_layer:0"}, "slim": {"elements": ["distilled_guidance_layer"], "new_rank": 2}}[tool]
    TOOLS[tool].run(model=tmp_path / "chroma.safetensors", save_to=tmp_path / "left.safetensors", **options)
    left = load_file(tmp_path / "left.safetensors")
    assert left.keys() == attention.keys() and all(torch.allclose(left[key], attention[key]) for key in left)
    assert lib_lycoris.inspect(tmp_path / "left.safetensors").family == "chroma"
