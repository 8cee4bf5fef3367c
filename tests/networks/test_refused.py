"""Methods that are known and not read are refused by name: whatever else their files hold, nothing of them is applied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lib_lycoris import inspect, load
from lib_lycoris.errors import NetworkFormatError
from lib_lycoris.networks.settings.refused import INITS, METHODS, VARIANTS

MODULE = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
LORA = {f"{MODULE}.lora_A.weight": torch.ones(4, 320), f"{MODULE}.lora_B.weight": torch.ones(320, 4)}


def write(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> Path:
    path = folder / "adapter_model.safetensors"
    save_file(tensors, str(path))
    if config:
        path.with_name("adapter_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("method", METHODS)
def test_by_its_keys_and_by_its_config(method: str, tmp_path: Path) -> None:
    part, kind, _ = METHODS[method]
    alone = write(tmp_path, {f"{MODULE}{part if part.startswith('.') else '.' + part}X": torch.ones(3)}, {})
    for path, config in ((alone, {}), (alone, {"peft_type": kind})):
        if config:
            path = write(tmp_path, LORA, config)
        with pytest.raises(NetworkFormatError, match=method):
            load(path)
        assert any(method in problem for problem in inspect(path).problems)


@pytest.mark.parametrize("init", INITS)
def test_a_beginning_that_nobody_can_repeat(init: str, tmp_path: Path) -> None:
    path = write(tmp_path, LORA, {"r": 4, "lora_alpha": 4, "init_lora_weights": f"{init}_4" if init == "pissa_niter" else init})
    with pytest.raises(NetworkFormatError, match="base weight"):
        load(path)


@pytest.mark.parametrize("setting", VARIANTS)
def test_a_forward_that_is_no_change_of_a_weight(setting: str, tmp_path: Path) -> None:
    with pytest.raises(NetworkFormatError, match="is not applied"):
        load(write(tmp_path, LORA, {"r": 4, "lora_alpha": 4, setting: [1]}))


def test_plain_beginnings_are_applied(tmp_path: Path) -> None:
    off = dict.fromkeys(VARIANTS) | {"use_qalora": False}
    for init in (True, False, "gaussian", "eva", "orthogonal", "mica"):
        assert len(load(write(tmp_path, LORA, {"r": 4, "lora_alpha": 4, "init_lora_weights": init, **off})).patches) == 1


@pytest.mark.parametrize("arguments", [{"sig_type": "last"}, {"sig_type": "middle"}, {"use_data_init": "False"}])
def test_a_t_lora_that_did_not_begin_with_the_principal_part(arguments: dict[str, str], tmp_path: Path) -> None:
    module, path = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", tmp_path / "t.safetensors"
    tensors = {"q_layer.weight": torch.ones(4, 320), "p_layer.weight": torch.ones(320, 4), "lambda_layer": torch.ones(1, 4)}
    for given in ({"algo": "tlora", "sig_type": "principal", "use_data_init": "True"}, {"algo": "tlora", **arguments}):
        save_file({f"{module}.{end}": tensor for end, tensor in tensors.items()}, str(path), {"ss_network_args": json.dumps(given)})
        if "False" in given.values() or given.get("sig_type") in ("last", "middle"):
            with pytest.raises(NetworkFormatError, match="is a T-LoRA that began with"):
                load(path)
        else:
            assert len(load(path).patches) == 1
