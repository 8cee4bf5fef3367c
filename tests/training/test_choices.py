"""Dims by block, files that a training begins with, which of the files between are kept, and what is measured of the change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lycoris import load
from lib_lycoris.demo import CHECKPOINT
from lib_lycoris.hosts.embedded.demo import demo_model
from lib_lycoris.models import block_of, layout
from lib_lycoris.patching import Patcher
from lib_lycoris.tools.extract import extract
from lib_lycoris.training.__main__ import main
from lib_lycoris.training.algorithms.trained_network import TrainedModule
from lib_lycoris.training.reporting.spectra import change_of
from tests.training import pictures
from tests.training.conftest import Words

REQUIRES = ("lycoris",)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return pictures.folder(tmp_path_factory.mktemp("images"), 6)


@pytest.mark.slow
def test_dims_and_alphas_by_block(out: Path, words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [name for name in layout("sd1") if name != "BASE"]
    asked = {block: (1 + place % 4, 0.5 + place % 3) for place, block in enumerate(blocks)}
    dims, alphas = (",".join(str(pair[part]) for pair in asked.values()) for part in (0, 1))
    given = ("--network_dim", "5", "--network_alpha", "2", "--max_train_steps", "1", "--save_precision", "float", "--network_args")
    assert main(words("blocks", *given, f"block_dims={dims}", f"block_alphas={alphas}")) == 0
    network = load(out / "blocks.safetensors", Patcher(demo_model(torch.device("cpu")).parts()).base)
    seen = set()
    for name, algorithm in network.patches.items():
        tensors, block = algorithm.to_state_dict(), str(block_of(name, "sd1"))
        found = (tensors["lora_down.weight"].shape[0], float(tensors["alpha"]))
        assert found == asked.get(block, (5, 2.0)), name  # those of the text encoder are in no block
        seen.add(block)
    assert len(seen & set(blocks)) == 16 and seen - set(blocks) == {"BASE"}
    assert main(words("few", *given, "block_dims=1,2")) == 2
    assert f"block_dims and block_alphas take {len(blocks)} numbers" in capsys.readouterr().err


def test_a_training_begins_with_an_extraction(out: Path, words: Words, tmp_path: Path) -> None:
    """What a fine-tune changed is where the training begins, in the dims that the extraction has."""
    tensors = load_file(str(CHECKPOINT))
    changed = [name for name in tensors if name.endswith("attn1.to_q.weight")]
    g = torch.Generator().manual_seed(1)
    for name in changed:
        rows, columns = tensors[name].shape
        change = torch.randn(rows, 2, generator=g) @ torch.randn(2, columns, generator=g)
        tensors[name] = (tensors[name].float() + 0.01 * change).to(tensors[name].dtype)
    save_file(tensors, tmp_path / "tuned.safetensors")
    found = out / "found.safetensors"
    extract.run(CHECKPOINT, tmp_path / "tuned.safetensors", found, algorithm="lora", dim=3, save_precision="float", text_encoder=False)
    begin = ("--network_weights", str(found), "--dim_from_weights", "--network_train_unet_only", "--save_precision", "float")
    assert main(words("on", *begin, "--max_train_steps", "1", "--learning_rate", "1e-12")) == 0
    first, after = load_file(str(found)), load_file(str(out / "on.safetensors"))
    assert len(first) == 3 * len(changed) > 0 and first.keys() < after.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-9)
    fresh = [tensor for name, tensor in after.items() if name not in first and name.endswith("lora_up.weight")]
    assert fresh and all(float(tensor.abs().max()) < 1e-9 for tensor in fresh)


@pytest.mark.parametrize(
    "asked, kept",
    [  # six epochs of three batches; sd-scripts' rules: of epochs the last so many files, of steps those of the last so many steps
        (("--save_every_n_epochs", "1"), ["000001", "000002", "000003", "000004", "000005"]),
        (("--save_every_n_epochs", "1", "--save_last_n_epochs", "2"), ["000004", "000005"]),
        (("--save_every_n_epochs", "2", "--save_last_n_epochs", "1"), ["000004"]),
        (("--save_every_n_epochs", "2", "--save_last_n_epochs", "2"), ["000002", "000004"]),
        (("--save_every_n_steps", "4", "--save_last_n_steps", "4"), ["step00000012", "step00000016"]),
        (("--save_every_n_steps", "4", "--keep_last", "1"), ["step00000016"]),
    ],
)
def test_which_files_are_kept(asked: tuple[str, ...], kept: list[str], on_flux: Words, out: Path) -> None:
    name = "kept" + "".join(asked).replace("--", "-")
    assert main(on_flux(name, "--train_batch_size", "10", "--max_train_epochs", "6", "--no-self_check", *asked)) == 0
    assert sorted(path.stem.removeprefix(f"{name}-") for path in out.glob(f"{name}-*.safetensors")) == kept
    assert (out / f"{name}.safetensors").is_file()


@pytest.mark.parametrize("layer", [torch.nn.Linear(24, 40), torch.nn.Conv2d(6, 40, 3)])
@pytest.mark.parametrize("more", [{}, {"weight_decompose": True}, {"use_tucker": True}])
def test_two_factors_have_the_singular_values_of_their_product(layer: torch.nn.Module, more: dict[str, bool]) -> None:
    from lycoris.modules.locon import LoConModule

    module = LoConModule("x", layer, 1.0, 4, 2.0, **more)
    torch.nn.init.normal_(module.lora_up.weight)
    found = change_of(TrainedModule("x", "unet", "x", "x", module))
    assert found is not None
    whole = torch.linalg.svdvals(module.get_diff_weight()[0].flatten(1))[: len(found)]
    torch.testing.assert_close(torch.linalg.svdvals(found)[: len(whole)], whole, rtol=1e-4, atol=1e-5)
