"""Files: what is wrong with one is said in a sentence that names it; whatever is right is read, in every spelling."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lib_lycoris import load, models
from lib_lycoris.algorithms import DoRA
from lib_lycoris.algorithms.padded import Padded
from lib_lycoris.errors import LycorisError, ModelMismatchError, NetworkFormatError
from lib_lycoris.models import LayerInfo
from lib_lycoris.networks.hashes import model_hash, sha256
from lib_lycoris.networks.keys import split
from lib_lycoris.networks.reading.reader import open_file
from lib_lycoris.networks.writer import save, state_dict

MODULE = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
PARAMETER = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def lora(out: int = 320, inputs: int = 768, rank: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(out, rank, generator=generator), torch.randn(rank, inputs, generator=generator)
    return {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(2.0)}


def written(path: Path, module: str = MODULE, metadata: dict[str, str] | None = None, **tensors: Tensor) -> Path:
    save(path, {f"{module}.{suffix}": tensor for suffix, tensor in (tensors or lora()).items()}, metadata)
    return path


def test_a_file_is_read_for_the_model_that_it_is_for(tmp_path: Path) -> None:
    network = load(written(tmp_path / "style.safetensors"))
    assert network.name == "style"
    assert network.family == "sd1"
    assert set(network.patches) == {PARAMETER}
    assert network.skipped == ()
    delta = network.patches[PARAMETER].delta(torch.zeros(320, 768))
    torch.testing.assert_close(delta, lora()["lora_up.weight"] @ lora()["lora_down.weight"] * 0.5)


def test_it_can_be_replaced_and_deleted_while_the_network_is_loaded(tmp_path: Path) -> None:
    """No map of the file stays open: the tensors are in memory of their own."""
    path = written(tmp_path / "style.safetensors")
    network = load(path)
    before = network.patches[PARAMETER].delta(torch.zeros(320, 768)).clone()
    with path.open("r+b") as file:
        file.seek(200)
        file.write(b"\xff" * 4000)
    assert torch.equal(network.patches[PARAMETER].delta(torch.zeros(320, 768)), before)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(path) not in maps.read_text()


@pytest.mark.parametrize("cut", [3, 8, 60, 400, 5000])
def test_a_truncated_file_says_so(cut: int, tmp_path: Path) -> None:
    path = written(tmp_path / "short.safetensors")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(NetworkFormatError, match=r"short\.safetensors.*(cut off|no safetensors file).*download it again"):
        load(path)


@pytest.mark.parametrize(
    "header",
    [b"[1, 2]", b"{not json", b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
     b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
     b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}', b'{"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}'],
)  # fmt: skip
def test_a_header_that_lies_is_refused(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    with pytest.raises(NetworkFormatError, match=r"odd\.safetensors"):
        load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_with_nan_names_the_key(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {k: v.to(dtype) for k, v in lora().items()}
    tensors["lora_down.weight"][1, 5] = value
    path = written(tmp_path / "burnt.safetensors", **tensors)
    with pytest.raises(NetworkFormatError, match=rf"burnt\.safetensors is broken: {MODULE}\.lora_down\.weight holds NaN or infinity"):
        load(path)


def test_pickles_are_opened_by_the_weights_only_unpickler_alone(tmp_path: Path) -> None:
    good = tmp_path / "old.pt"
    torch.save({f"{MODULE}.{k}": v for k, v in lora().items()}, good)
    assert set(load(good).patches) == {PARAMETER}
    nested = tmp_path / "nested.ckpt"
    torch.save({"state_dict": {f"{MODULE}.{k}": v for k, v in lora().items()}}, nested)
    assert set(load(nested).patches) == {PARAMETER}

    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "executed",))  # type: ignore[return-value]

    evil = tmp_path / "evil.pt"
    with evil.open("wb") as file:
        pickle.dump({"a": Harmful()}, file)
    with pytest.raises(NetworkFormatError, match=r"evil\.pt is not opened"):
        load(evil)
    assert not (tmp_path / "executed").exists()


def test_other_files_are_named_and_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(NetworkFormatError, match=r"notes\.txt is no network file"):
        load(tmp_path / "notes.txt")
    with pytest.raises(NetworkFormatError, match=r"gone\.safetensors is not there"):
        load(tmp_path / "gone.safetensors")
    save(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": torch.ones(3)})
    with pytest.raises(LycorisError, match=r"vae\.safetensors"):
        load(tmp_path / "vae.safetensors")


def test_an_unknown_algorithm_is_skipped_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "new.safetensors"
    other = MODULE.replace("to_k", "to_v")
    save(
        path,
        {
            **{f"{MODULE}.{k}": v for k, v in lora().items()},
            f"{other}.hada_w1_a": torch.ones(320, 2),
            f"{other.replace('attn2', 'attn1')}.zeta.weight": torch.ones(3),
        },
    )
    network = load(path)
    assert set(network.patches) == {PARAMETER}
    reasons = dict(network.skipped)
    assert reasons[f"{other}.hada_w1_a"] == "no known algorithm stores exactly hada_w1_a"
    assert f"{other.replace('attn2', 'attn1')}.zeta.weight" in reasons
    assert network.coverage == "1 of 2 layers"
    alone = written(tmp_path / "alone.safetensors", hada_w1_a=torch.ones(320, 2))
    with pytest.raises(ModelMismatchError, match=r"alone\.safetensors fits no layer.*hada_w1_a"):
        load(alone)


def test_a_file_for_another_model_says_which(tmp_path: Path) -> None:
    sd2 = written(tmp_path / "two.safetensors", **lora(320, 1024))
    with pytest.raises(ModelMismatchError, match=r"two\.safetensors is for Stable Diffusion 2.*the model is Stable Diffusion 1"):
        load(sd2, models.reference("sd1"))
    tensors = {}
    for block in (4, 5, 7, 8):
        name = f"lora_unet_input_blocks_{block}_1_transformer_blocks_1_attn2_to_k"
        tensors.update({f"{name}.{k}": v for k, v in lora(640 if block < 6 else 1280, 2048).items()})
    tensors.update({f"lora_te1_text_model_encoder_layers_0_mlp_fc1.{k}": v for k, v in lora(3072, 768).items()})
    save(tmp_path / "xl.safetensors", tensors)
    with pytest.raises(ModelMismatchError, match=r"xl\.safetensors is for Stable Diffusion XL.*the model is Stable Diffusion 1"):
        load(tmp_path / "xl.safetensors", models.reference("sd1"))
    assert len(load(tmp_path / "xl.safetensors").patches) == 5


def test_a_wrong_shape_in_one_layer_is_skipped_with_both_shapes(tmp_path: Path) -> None:
    other = MODULE.replace("attn2_to_k", "attn1_to_q")
    tensors = {**{f"{MODULE}.{k}": v for k, v in lora().items()}, **{f"{other}.{k}": v for k, v in lora(320, 300).items()}}
    save(tmp_path / "mixed.safetensors", tensors)
    network = load(tmp_path / "mixed.safetensors")
    assert set(network.patches) == {PARAMETER}
    assert {item.key for item in network.skipped} == {f"{other}.{k}" for k in lora()}
    assert "(320, 300), but the layer is (320, 320) - is this file for another model?" in network.skipped[0].reason


def test_a_network_for_the_plain_model_fits_an_inpainting_one(tmp_path: Path) -> None:
    """The first convolution's further channels get no change; a rotation of outputs reaches them."""
    tensors = {"lora_up.weight": torch.randn(320, 4, 1, 1), "lora_down.weight": torch.randn(4, 4, 3, 3)}
    path = written(tmp_path / "plain.safetensors", "lora_unet_conv_in", **tensors)
    plain = models.reference("sd1")
    layers = {**plain.layers, "diffusion_model.input_blocks.0.0": LayerInfo("Conv2d", (320, 9, 3, 3), True)}
    network = load(path, models.base_model("sd1", layers))
    patch = network.patches["diffusion_model.input_blocks.0.0.weight"]
    assert isinstance(patch, Padded)
    delta = patch.delta(torch.randn(320, 9, 3, 3))
    torch.testing.assert_close(delta[:, :4], load(path).patches["diffusion_model.input_blocks.0.0.weight"].delta(torch.zeros(320, 4, 3, 3)))
    assert not delta[:, 4:].any()


@pytest.mark.parametrize(
    ("key", "module", "suffix"),
    [
        ("lora_unet_a_b.lora_up.weight", "lora_unet_a_b", "lora_up.weight"),
        ("unet.a.b.lora_A.weight", "unet.a.b", "lora_down.weight"),
        ("unet.a.b.lora_B.default.weight", "unet.a.b", "lora_up.weight"),
        ("unet.a.b.lora.down.weight", "unet.a.b", "lora_down.weight"),
        ("unet.a.b.lora_linear_layer.up.weight", "unet.a.b", "lora_up.weight"),
        ("unet.a.attn1.processor.to_q_lora.down.weight", "unet.a.attn1.to_q", "lora_down.weight"),
        ("unet.a.attn1.processor.to_out_lora.up.weight", "unet.a.attn1.to_out.0", "lora_up.weight"),
        ("text_encoder.x.self_attn.to_out_lora.up.weight", "text_encoder.x.self_attn.out_proj", "lora_up.weight"),
        ("base_model.model.a.lora_magnitude_vector", "base_model.model.a", "magnitude"),
        ("x.oft_R.scaled_oft", "x", "oft_R.scaled_oft"),
        ("x.lora_B.bias", "x", "lora_B.bias"),
        ("x.y.diff_b", "x.y", "diff_b"),
    ],
)
def test_keys_are_split_by_the_longest_known_suffix(key: str, module: str, suffix: str) -> None:
    assert (split(key) or ())[:2] == (module, suffix)


def test_pefts_config_scales_and_its_patterns_apply(tmp_path: Path) -> None:
    module = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2."
    weight, names = torch.zeros(320, 768), [PARAMETER, PARAMETER.replace("to_k", "to_v")]

    def values(config: dict[str, object] | None, second: int = 4) -> list[float]:
        tensors = {f"{module}{name}.lora_{half}.weight": t for name, rank in (("to_k", 4), ("to_v", second))
                   for half, t in (("A", torch.ones(rank, 768)), ("B", torch.ones(320, rank)))}  # fmt: skip
        save(tmp_path / "adapter_model.safetensors", tensors)
        if config is not None:
            (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        network = load(tmp_path / "adapter_model.safetensors", models.reference("sd1"))
        return [float(network.patches[name].delta(weight)[0, 0]) for name in names]

    assert values(None) == [4.0, 4.0]  # without a config the scale is 1
    assert values({"peft_type": "LORA", "r": 4, "lora_alpha": 2}) == [2.0, 2.0]
    assert values({"peft_type": "LORA", "r": 4, "lora_alpha": 2, "use_rslora": True}) == [4.0, 4.0]
    patterns = {"alpha_pattern": {"to_v": 8}, "rank_pattern": {"attn2.to_k": 4}}
    assert values({"peft_type": "LORA", "r": 8, "lora_alpha": 2, **patterns}, second=8) == [2.0, 8.0]
    (tmp_path / "adapter_config.json").write_text("{broken")
    with pytest.raises(NetworkFormatError, match=r"adapter_config\.json beside .*\.safetensors is not JSON"):
        values(None)


@pytest.mark.parametrize(
    ("args", "dim", "factor"), [({"split_qkv": "True"}, "4", 2 / 4), ({}, "4", 2 / 12), ({"split_qkv": "True"}, "12", 2 / 12)]
)
def test_kohyas_split_qkv_is_read_as_it_was_trained(args: dict[str, str], dim: str, factor: float, tmp_path: Path) -> None:
    """Three adapters of rank 4 saved as one of rank 12: alpha belongs to 4, as the trainer's forward has it."""
    tensors = {"lora_up.weight": torch.ones(9216, 12), "lora_down.weight": torch.ones(12, 3072), "alpha": torch.tensor(2.0)}
    metadata = {"ss_network_args": json.dumps(args), "ss_network_dim": dim}
    network = load(written(tmp_path / "flux.safetensors", "lora_unet_double_blocks_0_img_attn_qkv", metadata, **tensors))
    patch = network.patches["diffusion_model.double_blocks.0.img_attn.qkv.weight"]
    assert patch.scale == pytest.approx(factor)  # type: ignore[attr-defined]


def test_kohyas_flux_rotations_go_to_their_slices(tmp_path: Path) -> None:
    """``oft_blocks.0`` to ``.3``: one rotation for each of q, k, v and mlp, the constraint of each by its own rows."""
    blocks = {f"oft_blocks.{i}": torch.randn(4, rows // 4, rows // 4) * 0.01 for i, rows in enumerate((64, 64, 64, 256))}
    layers = {"diffusion_model.single_blocks.0.linear1": LayerInfo("Linear", (448, 64), True)}
    path = written(tmp_path / "turn.safetensors", "oft_unet_single_blocks_0_linear1", **blocks, alpha=torch.tensor(0.001))
    network = load(path, models.base_model("flux", layers))
    name = "diffusion_model.single_blocks.0.linear1.weight"
    assert set(network.patches) == {f"{name}[{part}]" for part in ("q", "k", "v", "mlp")}
    assert not network.skipped
    for part, rows in (("q", 64), ("mlp", 256)):
        assert network.patches[f"{name}[{part}]"].delta(torch.randn(rows, 64)).abs().max() > 0


def test_a_bias_that_peft_trained_replaces_the_layers(tmp_path: Path) -> None:
    module = "base_model.model.down_blocks.0.attentions.0.proj_in"
    factors = {"lora_A.weight": torch.randn(4, 320, 1, 1), "lora_B.weight": torch.randn(320, 4, 1, 1), "base_layer.bias": torch.randn(320)}
    network = load(written(tmp_path / "adapter_model.safetensors", module, **factors), models.reference("sd1"))
    assert not network.skipped
    bias = torch.randn(320)
    delta = network.patches["diffusion_model.input_blocks.1.1.proj_in.bias"].delta(bias)
    torch.testing.assert_close(bias + delta, factors["base_layer.bias"])


def test_dora_of_peft_is_per_output_and_of_onetrainer_by_shape(tmp_path: Path) -> None:
    factors = {"lora_A.weight": torch.randn(4, 320), "lora_B.weight": torch.randn(320, 4), "lora_magnitude_vector": torch.rand(320)}
    written(tmp_path / "peft.safetensors", "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", **factors)
    patch = next(iter(load(tmp_path / "peft.safetensors", models.reference("sd1")).patches.values()))
    assert isinstance(patch, DoRA)
    assert patch.axis((320, 320)) == 0
    path = written(tmp_path / "in.safetensors", MODULE.replace("attn2_to_k", "attn1_to_q"), **lora(320, 320), dora_scale=torch.rand(1, 320))
    inner = next(iter(load(path, models.reference("sd1")).patches.values()))
    assert isinstance(inner, DoRA)
    assert inner.axis((320, 320)) == 1


def test_the_digest_is_of_names_shapes_and_the_sums_of_the_bits(tmp_path: Path) -> None:
    """Drops of a merge follow from it, and a recipe is verified years later: it stays what it was."""
    tensors = {**lora(), "lora_up.weight": lora()["lora_up.weight"].half(), "dora_scale": torch.rand(320, 1).bfloat16()}
    read = {f"{MODULE}.{suffix}": tensor for suffix, tensor in tensors.items()}
    sums = [int(read[key].view({2: torch.int16, 4: torch.int32}[read[key].element_size()]).long().sum()) for key in sorted(read)]
    told = hashlib.blake2b(repr([(key, read[key].dtype, tuple(read[key].shape)) for key in sorted(read)]).encode(), digest_size=16)
    told.update(struct.pack(f"<{len(sums)}q", *sums))
    for wide in (None, torch.float32):
        assert load(written(tmp_path / "a.safetensors", **tensors), prepared=wide).digest == told.hexdigest()


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_fp8_files_are_read_upcast(name: str, tmp_path: Path) -> None:
    small = {k: v.to(getattr(torch, name)) if k != "alpha" else v for k, v in lora().items()}
    network = load(written(tmp_path / "small.safetensors", **small))
    want = small["lora_up.weight"].float() @ small["lora_down.weight"].float() * 0.5
    torch.testing.assert_close(network.patches[PARAMETER].delta(torch.zeros(320, 768)), want)


def test_writing_again_gives_the_same_network(tmp_path: Path) -> None:
    """What is written under the file's own names reads as the same patches, in the same order of application."""
    first = load(written(tmp_path / "a.safetensors", metadata={"ss_output_name": "a"}))
    save(tmp_path / "b.safetensors", state_dict(first))
    second = load(tmp_path / "b.safetensors")
    assert set(first.patches) == set(second.patches)
    assert first.digest == second.digest
    weight = torch.zeros(320, 768)
    assert torch.equal(first.patches[PARAMETER].delta(weight), second.patches[PARAMETER].delta(weight))
    assert not list(tmp_path.glob(".*part"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = written(tmp_path / "keep.safetensors")
    before = path.read_bytes()
    with pytest.raises((AttributeError, TypeError, ValueError)):
        save(path, {"a": torch.ones(2), "b": "no tensor"})  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["keep.safetensors"]


def test_a_written_file_has_the_mode_of_new_files(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    assert written(tmp_path / "style.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_hashes_are_the_ones_that_programs_know(tmp_path: Path) -> None:
    """``sshs_model_hash`` is of everything behind the header, so metadata does not change it."""
    one, two = written(tmp_path / "a.safetensors"), written(tmp_path / "b.safetensors", metadata={"x": "1"})
    assert model_hash(one) == model_hash(two)
    assert sha256(one) != sha256(two)
    body = one.read_bytes()
    assert sha256(one) == hashlib.sha256(body).hexdigest()
    assert model_hash(one) == hashlib.sha256(body[8 + struct.unpack("<Q", body[:8])[0] :]).hexdigest()


def test_headers_are_read_without_the_tensors(tmp_path: Path) -> None:
    file = open_file(written(tmp_path / "style.safetensors", metadata={"ss_base_model_version": "sd_v1"}))
    assert file.metadata["ss_base_model_version"] == "sd_v1"
    assert file.tensors[f"{MODULE}.lora_up.weight"].shape == (320, 4)
