"""`inspect`: what it says of a file is what was put into the file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_lycoris import cli, models
from lib_lycoris.demo import CHECKPOINT, NETWORKS
from lib_lycoris.networks.reading.table import TensorInfo
from lib_lycoris.tools.examine.inspect import base_model_in, inspect
from lib_lycoris.tools.examine.inspect_text import as_text
from lib_lycoris.tools.files.checkpoints.checkpoint import open_checkpoint

QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"  # (320, 320) in SD1
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"  # (320, 768)
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"  # (3072, 768)
METADATA = {
    "ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_network_alpha": "2.0", "ss_output_name": "my-style",
    "ss_sd_model_name": "base.safetensors", "ss_base_model_version": "sd_v1", "ss_training_finished_at": "1700000000.0",
    "ss_tag_frequency": json.dumps({"10_style": {"sun": 3, "hat": 5}, "5_more": {"sun": 4}}), "sshs_model_hash": "ab" * 32,
}  # fmt: skip


def lora(module: str, out: int, inside: int, rank: int = 4, alpha: float = 2.0) -> dict[str, torch.Tensor]:
    return {
        f"{module}.lora_down.weight": torch.randn(rank, inside), f"{module}.lora_up.weight": torch.randn(out, rank),
        f"{module}.alpha": torch.tensor(alpha),
    }  # fmt: skip


def loha(module: str, out: int, inside: int) -> dict[str, torch.Tensor]:
    shapes = {"hada_w1_a": (out, 8), "hada_w1_b": (8, inside), "hada_w2_a": (out, 8), "hada_w2_b": (8, inside)}
    return {f"{module}.{suffix}": torch.randn(*shape).half() for suffix, shape in shapes.items()}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """LoRA in the text encoder and one UNet layer (dead), LoHa in another, an embedding, and a layer that SD1 lacks."""
    torch.manual_seed(0)
    tensors = {**lora(TEXT, 3072, 768), **lora(KEY, 320, 768, rank=8, alpha=8.0), **loha(QUERY, 320, 320)}
    tensors |= lora("lora_unet_no_such", 8, 8)
    tensors[f"{KEY}.lora_up.weight"].zero_()
    tensors["bundle_emb.my word.string_to_param.*"] = torch.randn(3, 768)
    save_file(tensors, tmp_path / "mixed.safetensors", METADATA)
    return tmp_path / "mixed.safetensors"


def test_modules_ranks_alphas_and_types_are_counted(mixed: Path) -> None:
    found = inspect(mixed)
    assert found.family == "sd1" and found.compared_with == "Stable Diffusion 1.x"
    assert "names and shapes" in found.family_reason
    assert found.algorithms == {"lora": 3, "loha": 1}
    assert found.ranks == {"4": 2, "8": 2}
    assert found.alphas == {"2": 2, "8": 1}
    assert found.dtypes == {"F32": 10, "F16": 4}
    by_name = {module.name: module for module in found.modules}
    assert by_name[TEXT].component == "te1" and by_name[TEXT].parameter == "transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    assert by_name[QUERY].component == "unet" and by_name[QUERY].algorithm == "loha"
    assert by_name["lora_unet_no_such"].parameter is None


def test_keys_that_change_nothing_are_listed_with_their_reason(mixed: Path) -> None:
    found = inspect(mixed)
    assert (found.keys, found.matched_keys) == (14, 11)
    assert {key for key, _ in found.unmatched} == {f"lora_unet_no_such.{s}" for s in ("alpha", "lora_down.weight", "lora_up.weight")}
    assert all("no layer of this name" in reason for _, reason in found.unmatched)
    assert found.dead == (KEY,)
    assert found.embeddings == {"my word": {"string_to_param.*": (3, 768)}}
    first = "lora_unet_no_such.alpha: Stable Diffusion 1.x has no layer of this name"
    assert found.problems == (f"3 keys without effect on Stable Diffusion 1.x, first {first}",)


def test_metadata_is_told_in_words(mixed: Path) -> None:
    found = inspect(mixed)
    expected = {"title": "my-style", "trainer module": "networks.lora", "rank": "4", "alpha": "2.0", "base model": "base.safetensors"}
    assert expected.items() <= found.training.items()
    assert found.training["finished"] == "2023-11-14 22:13 UTC"
    assert found.tags == (("sun", 7), ("hat", 5))


def test_hashes_are_of_the_file_and_of_its_tensors(mixed: Path) -> None:
    content = mixed.read_bytes()
    hashes = inspect(mixed).hashes
    whole = hashlib.sha256(content).hexdigest()
    behind = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
    assert hashes == {"sha256": whole, "autov2": whole[:10], "model_hash": behind, "short": "ab" * 6, "stored": "ab" * 32}


def test_a_broken_file_is_described(tmp_path: Path) -> None:
    tensors = lora(TEXT, 3072, 768)
    tensors[f"{TEXT}.lora_up.weight"][5, 1] = float("nan")
    tensors[f"{TEXT}.lora_down.weight"][0, 0] = float("inf")
    save_file(tensors, tmp_path / "nan.safetensors")
    found = inspect(tmp_path / "nan.safetensors")
    assert set(found.not_finite) == {f"{TEXT}.lora_up.weight", f"{TEXT}.lora_down.weight"}
    assert "in 2 tensors" in found.problems[0]
    assert found.algorithms == {"lora": 1}


def test_a_file_for_another_model_is_described(mixed: Path) -> None:
    found = inspect(mixed, models.reference("sdxl"))
    assert found.compared_with == "Stable Diffusion XL"
    assert any("made for Stable Diffusion 1.x" in problem for problem in found.problems)
    assert any(module.name == KEY and module.parameter is None for module in found.modules)


def test_the_model_at_hand_tells_what_a_file_does_not() -> None:
    path, base = NETWORKS / "demo-lora.safetensors", open_checkpoint(CHECKPOINT).base
    alone, found = inspect(path), inspect(path, base, base_name="the demo model")
    assert (alone.family, alone.fits, alone.layers_of) == (None, "", None) and "unknown (its metadata" in as_text(alone)
    assert (found.family, found.fits, found.layers_of) == (None, "the demo model", "sd1")
    assert "fits the demo model (by the names and shapes of its layers; by the file alone unknown: " in as_text(found)
    assert inspect(path, base).fits == "Stable Diffusion 1.x" and inspect(path, models.reference("sdxl")).fits == ""


def test_a_file_without_a_network_is_described(tmp_path: Path) -> None:
    save_file({"model.layer.weight_of_something": torch.ones(2)}, tmp_path / "other.safetensors")
    found = inspect(tmp_path / "other.safetensors")
    assert found.algorithms == {} and found.matched_keys == 0
    assert "the file holds no network" in found.problems[0]


def test_dora_says_what_it_stands_over(tmp_path: Path) -> None:
    tensors = {**lora(TEXT, 3072, 768), f"{TEXT}.dora_scale": torch.ones(3072, 1)}
    save_file(tensors, tmp_path / "dora.safetensors")
    found = inspect(tmp_path / "dora.safetensors")
    assert found.algorithms == {"dora over lora": 1} and found.ranks == {"4": 1} and found.alphas == {"2": 1}


@pytest.mark.parametrize("metadata", [{"ss_tag_frequency": "not json"}, {"ss_tag_frequency": "[1]"}, {"ss_training_finished_at": "soon"}])
def test_odd_metadata_does_no_harm(metadata: dict[str, str], tmp_path: Path) -> None:
    save_file(lora(TEXT, 3072, 768), tmp_path / "odd.safetensors", metadata)
    found = inspect(tmp_path / "odd.safetensors")
    assert found.tags == () and found.matched_keys == 3
    assert found.training == ({"finished": "soon"} if "ss_training_finished_at" in metadata else {})


@pytest.mark.corpus
def test_every_case_of_the_corpus_can_be_inspected() -> None:
    files = sorted((Path(__file__).parents[1] / "corpus" / "dev").glob("*/network.safetensors"))
    assert len(files) >= 73
    for path in files:
        found = inspect(path)
        assert found.modules or found.embeddings, path
        assert found.not_finite == (), path
        assert as_text(found).startswith("file"), path


def test_the_report_is_for_people_and_the_json_has_everything(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(mixed)]) == 0
    text = capsys.readouterr().out
    for line in (
        "algorithms     lora (3x), loha (1x)", "keys           11 of 14 used", "UNet           lora (1x), loha (1x)",
        "text encoder   lora (1x)", "fits no layer  lora (1x)", "top tags        sun 7, hat 5", f"  {KEY}",
    ):  # fmt: skip
        assert line in text.splitlines(), line
    assert cli.main(["inspect", str(mixed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(inspect(mixed).as_dict()))


def test_base_names_the_family_to_compare_with(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(mixed), "--base", "sdxl"]) == 0
    assert "compared with  Stable Diffusion XL" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, content, says",
    [("cut.safetensors", b"\x10", "cut off"), ("text.txt", b"x", "no network file"), (None, b"", "not there")],
)
def test_what_cannot_be_read_is_one_sentence(
    name: str | None, content: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / (name or "absent.safetensors")
    if name:
        path.write_bytes(content)
    assert cli.main(["inspect", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert path.name in printed.err and says in printed.err


def test_a_file_that_cannot_be_used_says_so_first_and_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({f"{TEXT}.diff": torch.full((3072, 768), torch.nan)}, tmp_path / "nan.safetensors")
    assert cli.main(["inspect", str(tmp_path / "nan.safetensors")]) == 1
    assert "it cannot be used" in capsys.readouterr().out.splitlines()[0]
    save_file({"model.weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    assert cli.main(["inspect", str(tmp_path / "foreign.safetensors")]) == 1


def test_a_checkpoint_is_called_by_its_base_model() -> None:
    found = inspect(CHECKPOINT)
    assert found.family is None and not found.usable
    assert found.problems == ("the file is a checkpoint (a base model), not a network; its layers are those of Stable Diffusion 1.x",)


@pytest.mark.parametrize("family", sorted(models.FAMILIES))
def test_the_layers_of_every_family_name_it(family: str) -> None:
    base = models.reference(family)
    shapes = {f"{name}.weight": tuple(layer.shape) for name, layer in base.layers.items()}
    shapes.update({f"{name}.bias": tuple(layer.shape[:1]) for name, layer in base.layers.items() if layer.bias})
    assert base_model_in({key: TensorInfo("F16", shape) for key, shape in shapes.items()}) == base.label
