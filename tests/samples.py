"""Random modules of every algorithm for a layer of a given shape: alpha differs from the rank, every tensor is random and not zero."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Shape = tuple[int, ...]
RANK = 3
# algorithms that no release writes which can be installed; their truth is recorded in tests/corpus, or (ABBA) is a formula alone
WITHOUT_ORACLE = {
    "StoredRotation", "InputOFT", "OutputOFT", "Replacement", "ABBA",
}  # fmt: skip


def _random(generator: torch.Generator, *shape: int, size: float = 0.3) -> Tensor:
    return torch.randn(*shape, generator=generator) * size


def lora(g: torch.Generator, shape: Shape) -> Tensors:
    ones = (1,) * (len(shape) - 2)
    return {
        "lora_up.weight": _random(g, shape[0], RANK, *ones),
        "lora_down.weight": _random(g, RANK, *shape[1:]),
        "alpha": torch.tensor(2.0),
    }


def lora_tucker(g: torch.Generator, shape: Shape) -> Tensors:
    ones = (1,) * (len(shape) - 2)
    return {"lora_up.weight": _random(g, shape[0], RANK, *ones), "lora_mid.weight": _random(g, RANK, RANK, *shape[2:]),
            "lora_down.weight": _random(g, RANK, shape[1], *ones), "alpha": torch.tensor(2.0)}  # fmt: skip


def lora_sparse(g: torch.Generator, shape: Shape) -> Tensors:
    rows = torch.randint(0, shape[0], (7,), generator=g).unique()
    cols = torch.randint(0, prod(shape[1:]), (len(rows),), generator=g)
    return {**lora(g, shape), "bias_indices": torch.stack((rows, cols)).to(torch.int16), "bias_values": _random(g, len(rows)),
            "bias_size": torch.tensor((shape[0], prod(shape[1:])), dtype=torch.int16)}  # fmt: skip


def loha(g: torch.Generator, shape: Shape) -> Tensors:
    found = {f"hada_w{i}_a": _random(g, shape[0], RANK, size=0.6) for i in (1, 2)}
    return {
        **found,
        **{f"hada_w{i}_b": _random(g, RANK, prod(shape[1:]), size=0.6) for i in (1, 2)},
        "alpha": torch.tensor(2.0),
    }


def loha_tucker(g: torch.Generator, shape: Shape) -> Tensors:
    found = {f"hada_w{i}_a": _random(g, RANK, shape[0], size=0.6) for i in (1, 2)}
    found |= {f"hada_w{i}_b": _random(g, RANK, shape[1], size=0.6) for i in (1, 2)}
    return {
        **found,
        **{f"hada_t{i}": _random(g, RANK, RANK, *shape[2:], size=0.6) for i in (1, 2)},
        "alpha": torch.tensor(2.0),
    }


def lokr(g: torch.Generator, shape: Shape) -> Tensors:
    return {"lokr_w1": _random(g, 4, 2), "lokr_w2_a": _random(g, shape[0] // 4, RANK),
            "lokr_w2_b": _random(g, RANK, prod(shape[1:]) // 2), "alpha": torch.tensor(2.0)}  # fmt: skip


def lokr_whole(g: torch.Generator, shape: Shape) -> Tensors:
    return {
        "lokr_w1": _random(g, 2, 4),
        "lokr_w2": _random(g, shape[0] // 2, shape[1] // 4, *shape[2:]),
        "alpha": torch.tensor(1e6),
    }


def lokr_both(g: torch.Generator, shape: Shape) -> Tensors:
    return {"lokr_w1_a": _random(g, 4, RANK), "lokr_w1_b": _random(g, RANK, 4), "lokr_w2_a": _random(g, shape[0] // 4, RANK),
            "lokr_w2_b": _random(g, RANK, prod(shape[1:]) // 4), "alpha": torch.tensor(2.0)}  # fmt: skip


def lokr_tucker(g: torch.Generator, shape: Shape) -> Tensors:
    return {"lokr_w1": _random(g, 4, 2), "lokr_w2_a": _random(g, RANK, shape[0] // 4), "lokr_w2_b": _random(g, RANK, shape[1] // 2),
            "lokr_t2": _random(g, RANK, RANK, *shape[2:]), "alpha": torch.tensor(2.0)}  # fmt: skip


def glora(g: torch.Generator, shape: Shape) -> Tensors:
    ones = (1,) * (len(shape) - 2)
    return {"a1.weight": _random(g, shape[1], RANK, *ones), "a2.weight": _random(g, RANK, shape[1], *ones),
            "b1.weight": _random(g, shape[0], RANK, *ones), "b2.weight": _random(g, RANK, *shape[1:]),
            "alpha": torch.tensor(2.0)}  # fmt: skip


def glora_old(g: torch.Generator, shape: Shape) -> Tensors:
    new = glora(g, shape)
    return {"a1.weight": new["a2.weight"], "a2.weight": new["a1.weight"], "b1.weight": new["b2.weight"], "b2.weight": new["b1.weight"],
            "alpha": new["alpha"]}  # fmt: skip


def full(g: torch.Generator, shape: Shape) -> Tensors:
    return {"diff": _random(g, *shape), "diff_b": _random(g, shape[0])}


def bias_only(g: torch.Generator, shape: Shape) -> Tensors:
    return {"diff_b": _random(g, shape[0])}


def norm(g: torch.Generator, shape: Shape) -> Tensors:
    return {"w_norm": _random(g, shape[0]), "b_norm": _random(g, shape[0])}


def replacement(g: torch.Generator, shape: Shape) -> Tensors:
    return {"set_weight": _random(g, *shape)}


def ia3_in(g: torch.Generator, shape: Shape) -> Tensors:
    return {"weight": _random(g, shape[1]), "on_input": torch.tensor(1)}


def ia3_out(g: torch.Generator, shape: Shape) -> Tensors:
    return {"weight": _random(g, 1, shape[0], 1, 1), "on_input": torch.tensor(0)}


def peft_ia3_out(g: torch.Generator, shape: Shape) -> Tensors:
    return {"ia3_l": 1 + _random(g, shape[0], 1)}


def oft(g: torch.Generator, shape: Shape) -> Tensors:
    return {"oft_blocks": _random(g, shape[0] // 4, 4, 4), "alpha": torch.tensor(0.0)}


def coft_rescaled(g: torch.Generator, shape: Shape) -> Tensors:
    return {**oft(g, shape), "alpha": torch.tensor(0.01), "rescale": 1 + _random(g, shape[0], *(1,) * (len(shape) - 1))}


def oft_stored(g: torch.Generator, shape: Shape) -> Tensors:
    return {"oft_diag": torch.linalg.qr(_random(g, shape[0] // 4, 4, 4)).Q}


def boft(g: torch.Generator, shape: Shape) -> Tensors:
    return {"oft_blocks": _random(g, 2, shape[0] // 4, 4, 4), "alpha": torch.tensor(0.0)}


def boft_rescaled(g: torch.Generator, shape: Shape) -> Tensors:
    return {**boft(g, shape), "rescale": 1 + _random(g, shape[0], *(1,) * (len(shape) - 1))}


def peft_oft(g: torch.Generator, shape: Shape) -> Tensors:
    return {"oft_R.weight": _random(g, prod(shape[1:]) // 4, 6, size=0.1)}


def peft_oft_rows(g: torch.Generator, shape: Shape) -> Tensors:
    return {"oft_r": _random(g, prod(shape[1:]) // 4, 4, 4), "oft_s": 1 + _random(g, shape[0], 1)}


def peft_oft_output(g: torch.Generator, shape: Shape) -> Tensors:
    return {"oft_r": _random(g, -(-shape[0] // 5), 5, 5)}


def peft_boft(g: torch.Generator, shape: Shape) -> Tensors:
    return {"boft_R": _random(g, 2, prod(shape[1:]) // 4, 4, 4), "boft_s": 1 + _random(g, shape[0], 1)}


def tlora(g: torch.Generator, shape: Shape) -> Tensors:
    return {"q_layer.weight": _random(g, RANK, shape[1]), "p_layer.weight": _random(g, shape[0], RANK),
            "lambda_layer": 1 + _random(g, 1, RANK), "alpha": torch.tensor(2.0)}  # fmt: skip


def hra(g: torch.Generator, shape: Shape) -> Tensors:
    return {"hra_u": _random(g, prod(shape[1:]), RANK)}


def adalora(g: torch.Generator, shape: Shape) -> Tensors:
    return {"lora_up.weight": _random(g, shape[0], RANK), "lora_down.weight": _random(g, RANK, prod(shape[1:])),
            "lora_E": _random(g, RANK, 1)}  # fmt: skip


def pissa(g: torch.Generator, shape: Shape) -> Tensors:
    return {"lora_up.weight": _random(g, shape[0], RANK), "lora_down.weight": _random(g, RANK, shape[1])}


def olora(g: torch.Generator, shape: Shape) -> Tensors:
    return pissa(g, shape)


def miss(g: torch.Generator, shape: Shape) -> Tensors:
    return {"miss_block": _random(g, 5, shape[0])}


def miss_mini(g: torch.Generator, shape: Shape) -> Tensors:
    return {"miss_block": _random(g, RANK, 4)}


def miss_bat(g: torch.Generator, shape: Shape) -> Tensors:
    return {"miss_block": _random(g, shape[0] // 4, 4, 4)}


def deft(g: torch.Generator, shape: Shape) -> Tensors:
    return {"deft_P": _random(g, shape[0], RANK), "deft_R": _random(g, RANK, shape[1])}


def deft_qr(g: torch.Generator, shape: Shape) -> Tensors:
    return deft(g, shape)


def deft_para(g: torch.Generator, shape: Shape) -> Tensors:
    return {"deft_P": _random(g, shape[0], RANK)}


def gralora(g: torch.Generator, shape: Shape) -> Tensors:
    return {"gralora_A": _random(g, 2, shape[1] // 2, 4), "gralora_B": _random(g, 2, 4, shape[0] // 2), "alpha": torch.tensor(2.0)}


def gralora_hybrid(g: torch.Generator, shape: Shape) -> Tensors:
    general = {"gralora_A_general.weight": _random(g, RANK, shape[1]), "gralora_B_general.weight": _random(g, shape[0], RANK)}
    return {**gralora(g, shape), **general}


def shira(g: torch.Generator, shape: Shape) -> Tensors:
    places = torch.randperm(prod(shape), generator=g)[:9]
    return {"shira_weight": _random(g, 9), "shira_indices": torch.stack((places // shape[1], places % shape[1])).int()}


def supertuning(g: torch.Generator, shape: Shape) -> Tensors:
    return {"supertuning_values": _random(g, 9), "supertuning_indices": torch.randperm(prod(shape), generator=g)[:9].int()}


def supertuning_supra(g: torch.Generator, shape: Shape) -> Tensors:
    factors = {"supertuning_lora_A.weight": _random(g, RANK, shape[1]), "supertuning_lora_B.weight": _random(g, shape[0], RANK)}
    return {**supertuning(g, shape), **factors}


def hira(g: torch.Generator, shape: Shape) -> Tensors:
    return {"hira_A": _random(g, RANK, *shape[1:]), "hira_B": _random(g, shape[0], RANK, *(1,) * (len(shape) - 2))}


def vera(g: torch.Generator, shape: Shape) -> Tensors:
    return {"vera_lambda_b": _random(g, shape[0]), "vera_lambda_d": _random(g, RANK),
            "vera_A": _random(g, RANK, shape[1] + 3), "vera_B": _random(g, shape[0] + 2, RANK)}  # fmt: skip


def delora(g: torch.Generator, shape: Shape) -> Tensors:
    return {"delora_A": _random(g, RANK, shape[1]), "delora_B": _random(g, shape[0], RANK), "delora_lambda": torch.tensor([2.0]),
            "delora_w_norm": 1 + _random(g, shape[1])}  # fmt: skip


def c3a(g: torch.Generator, shape: Shape) -> Tensors:
    return {"c3a_kernel": _random(g, shape[0] // 4, shape[1] // 4, 4, size=3.0)}


def beft(g: torch.Generator, shape: Shape) -> Tensors:
    return {"beft_bias": _random(g, 1, shape[0])}


def road(g: torch.Generator, shape: Shape) -> Tensors:
    return {"road_theta": _random(g, shape[0]), "road_alpha": 1 + _random(g, shape[0])}


def road_1(g: torch.Generator, shape: Shape) -> Tensors:
    return {"road_theta": _random(g, shape[0] // 2), "road_alpha": 1 + _random(g, shape[0] // 2)}


def road_4(g: torch.Generator, shape: Shape) -> Tensors:
    return {"road_theta": _random(g, 2 * shape[0]), "road_alpha": 1 + _random(g, 2 * shape[0])}


def abba(g: torch.Generator, shape: Shape) -> Tensors:
    return {"lora_up1.weight": _random(g, shape[0], 2), "lora_down1.weight": _random(g, 2, prod(shape[1:])),
            "lora_up2.weight": _random(g, shape[0], RANK), "lora_down2.weight": _random(g, RANK, prod(shape[1:])),
            "alpha": torch.tensor(2.0)}  # fmt: skip


def peft_glora(g: torch.Generator, shape: Shape) -> Tensors:
    factors = {
        f"glora_{path}.{part}": _random(g, *sizes) for path in "AB" for part, sizes in (("Xd", (shape[0], RANK)), ("Xu", (RANK, shape[1])))
    }
    return {**factors, "glora_C.zeros": torch.zeros(shape[1], 1), "glora_D.zeros": torch.zeros(shape[0]),
            "glora_E.zeros": torch.zeros(shape[0])}  # fmt: skip


def peft_glora_vectors(g: torch.Generator, shape: Shape) -> Tensors:
    return {"glora_A.X": _random(g, shape[0], 1), "glora_B.X": _random(g, 1), "glora_C.Xd": _random(g, shape[1], RANK),
            "glora_C.Xu": _random(g, RANK, 1), "glora_D.X": _random(g, shape[0]), "glora_E.X": _random(g, 1)}  # fmt: skip


def dora_out(g: torch.Generator, shape: Shape) -> Tensors:
    return {**lora(g, shape), "dora_scale": 1 + _random(g, shape[0], *(1,) * (len(shape) - 1))}


def dora_in(g: torch.Generator, shape: Shape) -> Tensors:
    return {**loha(g, shape), "dora_scale": 1 + _random(g, 1, shape[1], *(1,) * (len(shape) - 2))}


# what PEFT's adapter_config.json says beside the tensors of a sample
CONFIGS: dict[str, dict[str, Any]] = {
    "adalora": {"peft_type": "ADALORA", "init_r": 5, "lora_alpha": 2},
    "pissa": {"r": RANK, "lora_alpha": 2, "init_lora_weights": "pissa"},
    "olora": {"r": RANK, "lora_alpha": 2, "init_lora_weights": "olora"},
    "deft": {"peft_type": "DEFT", "alpha": 2},
    "deft_qr": {"peft_type": "DEFT", "decomposition_method": "qr"},
    "deft_para": {"peft_type": "DEFT", "decomposition_method": "qr", "para": True},
    "supertuning_supra": {"peft_type": "SUPERTUNING", "r": RANK, "lora_alpha": 2},
    **{name: {"peft_type": "ROAD", "group_size": 4} for name in ("road", "road_1", "road_4")},
}


def metadata(name: str) -> dict[str, str] | None:
    """Return the metadata of a file with a sample in it: diffusers keeps PEFT's config there."""
    return {"lora_adapter_metadata": json.dumps(CONFIGS[name])} if name in CONFIGS else None


# trained on linear layers only: there is no file of them for a convolution with a kernel
FLAT = (
    tlora, pissa, olora, miss, miss_mini, miss_bat, deft, deft_qr, deft_para, gralora, gralora_hybrid, shira, supertuning,
    supertuning_supra, peft_glora, peft_glora_vectors, vera, delora, c3a, road, road_1, road_4,
)  # fmt: skip
LINEAR: dict[str, Callable[[torch.Generator, Shape], Tensors]] = {
    sample.__name__: sample for sample in (
        lora, lora_sparse, loha, lokr, lokr_whole, lokr_both, glora, glora_old, full, bias_only, replacement, ia3_in, ia3_out, peft_ia3_out,
        oft, coft_rescaled, oft_stored, boft, boft_rescaled, peft_oft, peft_oft_rows, peft_oft_output, peft_boft, hra,
        adalora, hira, abba, beft, dora_out, dora_in, *FLAT,
    )
}  # fmt: skip
CONVOLUTION = {k: f for k, f in LINEAR.items() if f not in FLAT} | {f.__name__: f for f in (lora_tucker, loha_tucker, lokr_tucker)}
NORM = {"norm": norm, "full": full, "bias_only": bias_only}

# names of SD1's layers, one of each kind, with shapes that no two axes share
LAYERS: dict[str, tuple[str, Shape]] = {
    "linear": ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k", (16, 24)),
    "biased": ("diffusion_model.input_blocks.1.1.transformer_blocks.0.ff.net.2", (16, 32)),
    "point": ("diffusion_model.input_blocks.1.1.proj_in", (16, 8, 1, 1)),
    "convolution": ("diffusion_model.input_blocks.1.0.in_layers.2", (16, 8, 3, 3)),
    "strided": ("diffusion_model.input_blocks.3.0.op", (24, 16, 3, 3)),
    "norm": ("diffusion_model.input_blocks.1.1.transformer_blocks.0.norm1", (16,)),
    "group": ("diffusion_model.input_blocks.1.1.norm", (16,)),
    "text": ("transformer.text_model.encoder.layers.0.mlp.fc1", (24, 16)),
}


def builders(kind: str) -> dict[str, Callable[[torch.Generator, Shape], Tensors]]:
    """Return the algorithms that a kind of layer can have."""
    return NORM if kind in ("norm", "group") else CONVOLUTION if kind in ("point", "convolution", "strided") else LINEAR


def kohya_name(module: str) -> str:
    """Return the module's name as files with LDM names spell it."""
    if module.startswith("transformer."):
        return "lora_te_" + module.removeprefix("transformer.").replace(".", "_")
    return "lora_unet_" + module.removeprefix("diffusion_model.").replace(".", "_")
