"""Names of base models: keys of the corpus, tables of real models, diffusers and kohya names."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib_lycoris.errors import LycorisError
from lib_lycoris.models import (
    FAMILIES,
    BaseModel,
    LayerInfo,
    base_model,
    parameter,
    recognise,
    reference,
    rows,
    split_parameter,
    with_part,
)

CORPUS = Path(__file__).parents[1] / "corpus" / "dev"
CASES = sorted(path.parent.name for path in CORPUS.glob("*/case.json"))
LDM = ("sd1", "sd2", "sdxl", "sdxl-refiner")
KINDS = {"lin": "Linear", "fused": "Linear", "conv": "Conv2d", "ln": "LayerNorm", "gn": "GroupNorm"}


def header(path: Path) -> dict:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


def case_of(name: str) -> dict:
    return json.loads((CORPUS / name / "case.json").read_text())


def case_model(case: dict) -> BaseModel:
    layers: dict[str, LayerInfo] = {}
    for info in case["modules"].values():
        name, shape = info["ldm_name"], tuple(info["shape"])
        fused = info.get("fused_target")
        if fused or name.endswith(".in_proj_weight"):
            name = (fused["name"] if fused else name).removesuffix(".in_proj_weight")
            shape = (3 * shape[0], shape[1]) if fused else shape
            layers[name] = LayerInfo("MultiheadAttention", shape, True)
        else:
            layers[name] = LayerInfo(KINDS[info["kind"]], shape, True)
    return base_model(case["arch"], layers)


@pytest.mark.corpus
@pytest.mark.parametrize("name", CASES)
def test_every_module_of_a_corpus_file_finds_its_layer(name: str) -> None:
    case = case_of(name)
    model = case_model(case)
    keys = [key for key in header(CORPUS / name / "network.safetensors") if key != "__metadata__"]
    for info in case["modules"].values():
        network_keys = info["network_key"] if isinstance(info["network_key"], list) else [info["network_key"]]
        covered: list[slice] = []
        for key in network_keys:
            assert any(item.startswith(key) for item in keys)
            found = model.find(key)
            assert found is not None, key
            module, leaf, part = split_parameter(parameter(found, "weight"))
            expected = (info.get("fused_target") or {"name": info["ldm_name"]})["name"]
            assert parameter(module, leaf).removesuffix(".weight") == expected
            covered += rows(part, model.layers[module].shape)
        if "fused_target" in info:
            assert covered == [slice(*info["fused_target"]["rows"])]


def test_the_corpus_is_there() -> None:
    assert len(CASES) == 73


# The tables are written as rules; these are the hashes of the same tables read off the real models' classes.
OFFICIAL = {
    "sd1": (490, "bf9e8661dc87337f"),
    "sd2": (535, "c4211db9b138444a"),
    "sdxl": (1341, "ab0dc34774df68ae"),
    "sdxl-refiner": (934, "1c7b78652d145669"),
}
NOT_IN_THE_OFFICIAL_TABLE = (".token_embedding", ".positional_embedding", ".ln_final", ".text_projection")


def table_hash(layers: dict[str, LayerInfo]) -> str:
    lines = sorted(f"{name} {info.kind} {list(info.shape)} {info.bias}" for name, info in layers.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("family", LDM)
def test_reference_tables_are_those_of_the_real_models(family: str) -> None:
    layers = reference(family).layers
    shared = {n: i for n, i in layers.items() if n.startswith("diffusion_model.") or not n.endswith(NOT_IN_THE_OFFICIAL_TABLE)}
    if family in ("sd1", "sdxl"):
        shared |= {n: i for n, i in layers.items() if "embeddings." in n}
    assert (len(shared), table_hash(shared)) == OFFICIAL[family]


@pytest.mark.parametrize(
    ("family", "variant"),
    [("sd3", None), ("sd3", "3.5-medium"), ("sd3", "3.5-large"), ("flux", None), ("flux", "schnell")],
)
def test_transformers_have_the_published_number_of_parameters(family: str, variant: str | None) -> None:
    model = reference(family, variant)
    count = 0
    for name, info in model.layers.items():
        if name.startswith("diffusion_model."):
            size = 1
            for side in info.shape:
                size *= side
            count += size + (info.shape[0] if info.bias else 0)
    position = model.layers.get("diffusion_model.pos_embed")
    if position:
        count -= position.shape[1] * position.shape[2]
    millions = {None: {"sd3": 2028, "flux": 11901}[family], "3.5-medium": 2243, "3.5-large": 8057, "schnell": 11891}[variant]
    assert round(count / 1e6) == millions


def targets(model: BaseModel) -> list[tuple[str, str, str]]:
    """Give (target, diffusers name, kohya-style flat name) of every alias of every layer."""
    kohya = {item.pipeline: item.kohya for item in FAMILIES[model.family].components}
    found = []
    for module in model.layers:
        for alias in model.aliases(module):
            flat = f"{kohya[alias.component]}_{alias.path.replace('.', '_')}"
            found.append((with_part(module, alias.part), alias.name, flat))
    return found


ALL_MODELS = [*((family, None) for family in FAMILIES), ("sd3", "3.5-medium"), ("sd3", "3.5-large")]


@pytest.mark.parametrize(("family", "variant"), ALL_MODELS)
def test_every_alias_of_every_layer_comes_back_to_it_alone(family: str, variant: str | None) -> None:
    model = reference(family, variant)
    found = targets(model)
    assert {parameter_free(target) for target, _, _ in found} == set(model.layers)
    assert len({name for _, name, _ in found}) == len(found) == len({flat for _, _, flat in found})
    for target, name, flat in found:
        assert model.find(name) == target
        assert model.find(flat) == target
        assert model.find(f"base_model.model.{name}") == target
        assert model.name_in("diffusers", target) == name
    for module in model.layers:
        assert model.find(module) == module
        assert model.find(module.replace(".", "_")) == module
        if module.startswith("diffusion_model."):
            assert model.find(f"lora_unet_{module[16:].replace('.', '_')}") == module
            assert model.find(f"model.{module}") == module


def parameter_free(target: str) -> str:
    return target.partition("[")[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_name_in_writes_is_found_again(family: str) -> None:
    model = reference(family)
    for module in model.layers:
        for target in [module, *(with_part(module, alias.part) for alias in model.aliases(module))]:
            for style in ("kohya", "diffusers"):
                name = model.name_in(style, target)
                assert name is None or model.find(name) == target
        assert any(model.name_in(style, module) for style in ("kohya", "diffusers")) or model.aliases(module)[0].part


def case_modules(name: str) -> dict[str, dict[str, tuple[int, ...]]]:
    case, found = case_of(name), {}
    tensors = header(CORPUS / name / "network.safetensors")
    for info in case["modules"].values():
        for key in info["network_key"] if isinstance(info["network_key"], list) else [info["network_key"]]:
            inside = {n[len(key) + 1 :]: tuple(t["shape"]) for n, t in tensors.items() if n.startswith(f"{key}.")}
            found[key] = inside
    return found


@pytest.mark.corpus
@pytest.mark.parametrize("name", CASES)
def test_corpus_files_are_never_taken_for_another_family(name: str) -> None:
    metadata = header(CORPUS / name / "network.safetensors").get("__metadata__", {})
    found = recognise(case_modules(name), metadata)
    arch = case_of(name)["arch"]
    assert arch in (*found.candidates, *found.alike)


def test_index_is_quick() -> None:
    """In seconds of the processor: how busy the machine is does not count."""
    reference("sdxl")
    start = time.process_time()
    model = base_model("sdxl", reference("sdxl").layers)
    model.find("lora_unet_conv_in")
    assert time.process_time() - start < 0.05
    start = time.process_time()
    for number in range(10_000):
        model.find(f"lora_te2_text_model_encoder_layers_{number % 32}_mlp_fc1")
    assert time.process_time() - start < 1.0


def test_import_reads_no_table_and_no_torch() -> None:
    code = "import sys; import lib_lycoris.models as m; assert 'torch' not in sys.modules; assert m.reference.cache_info().currsize == 0"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(
    ("family", "variant", "words"), [("sd15", None, "do you mean sd1"), ("sd3", "large", "there are medium, 3.5-medium, 3.5-large")]
)
def test_an_unknown_family_or_variant_is_a_sentence_with_the_nearest(family: str, variant: str | None, words: str) -> None:
    with pytest.raises(LycorisError, match=re.escape(words)):
        reference(family, variant)


def test_a_mixture_of_two_families_is_neither_and_names_both() -> None:
    parts = {"lora_A.weight": (4, 3072), "lora_B.weight": (3072, 4)}, {"lora_A.weight": (4, 5120), "lora_B.weight": (5120, 4)}
    modules = {f"transformer.transformer_blocks.20.attn.add_{part}_proj": parts[0] for part in "qkv"}
    modules |= {f"diffusion_model.blocks.0.self_attn.{part}": parts[1] for part in "qkv"}
    found = recognise(modules)
    assert found.family is None and not found.candidates
    assert found.reason.endswith("; 3 of its 6 layers would fit Qwen-Image and Wan 2.1 / 2.2 14B, each")
