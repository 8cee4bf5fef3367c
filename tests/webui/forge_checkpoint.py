"""Make tiny random SD1 checkpoints for Forge, Forge Neo and reForge, whose own classes give the names and shapes.

Run by the host's python: `PYTHON forge_checkpoint.py --webui DIR --out FOLDER sd1:1 sd1:2` writes
`FOLDER/checkpoints/sd1-<seed>.safetensors`. The extension in tiny_forge teaches the running host these widths.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
from checkpoint import CONTEXT, WIDTH, clip_text, lift_final_norm, schedule, state_of
from kinds import recognise

UNET: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "model_channels": WIDTH, "num_res_blocks": [2, 2, 2, 2], "channel_mult": (1, 2, 4, 4),
    "num_heads": 8, "num_head_channels": -1, "use_spatial_transformer": True, "context_dim": CONTEXT,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}  # fmt: skip
VAE = {"ch": WIDTH, "out_ch": 3, "ch_mult": (1, 2, 4, 4), "num_res_blocks": 2, "attn_resolutions": [], "in_channels": 3,
       "resolution": 256, "z_channels": 4, "double_z": True}  # fmt: skip


def models() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return a UNet and an autoencoder of the host that is on sys.path."""
    try:
        from backend.nn.unet import IntegratedUNet2DConditionModel
        from backend.nn.vae import IntegratedAutoencoderKL
    except ImportError:
        from ldm_patched.ldm.models.autoencoder import AutoencoderKL
        from ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
        from ldm_patched.modules.ops import disable_weight_init

        return UNetModel(image_size=32, **UNET, operations=disable_weight_init), AutoencoderKL(ddconfig=VAE, embed_dim=4)
    widths = [WIDTH * step for step in VAE["ch_mult"]]  # type: ignore[attr-defined]
    return IntegratedUNet2DConditionModel(**UNET), IntegratedAutoencoderKL(block_out_channels=widths, layers_per_block=2)


def make_checkpoint(seed: int, out: Path) -> Path:
    """Write one; the same seed gives the same bytes."""
    torch.manual_seed(seed)
    unet, vae = models()
    for module in (*unet.modules(), *vae.modules()):
        for parameter in module.parameters(recurse=False):
            with torch.no_grad():  # reForge's layers leave their memory as it is
                fan = parameter[0].numel() if parameter.dim() > 1 else 0
                parameter.normal_(0.0, fan**-0.5) if fan else parameter.fill_(0.0 if parameter is getattr(module, "bias", None) else 1.0)
    state = schedule()
    state.update(state_of("model.diffusion_model.", unet))
    state.update(state_of("first_stage_model.", vae))
    state.update(state_of("cond_stage_model.transformer.", clip_text()))
    file = out / "checkpoints" / f"sd1-{seed}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(lift_final_norm(state), file, metadata={"modelspec.title": f"tiny random sd1, seed {seed}"})
    return file


def enter(webui: Path) -> None:
    """Make a host's modules importable, which read the command line when they are: on CPU, in flags that each of them knows."""
    sys.argv[1:] = ["--cpu"] if recognise(webui).name == "neo" else ["--always-cpu"]
    sys.path.insert(0, str(webui))
    for folder in ("modules_forge/packages", "packages_3rdparty", "repositories/huggingface_guess"):
        sys.path.insert(1, str(webui / folder))
    if recognise(webui).name == "reforge":
        from ldm_patched.modules import args_parser

        args_parser.args.always_cpu = True  # read when its other modules are


def main() -> None:
    """Make the checkpoints named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--webui", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("kinds", nargs="+", help="sd1[:seed]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    enter(arguments.webui)
    for text in arguments.kinds:
        print(make_checkpoint(int([*text.split(":"), "1"][1]), arguments.out), flush=True)


if __name__ == "__main__":
    main()
