"""Write a random checkpoint of SD1.5's real sizes in single precision (3.8 GB), its autoencoder excepted, for a real webui.

Run by the webui's own Python: `PYTHON loader_webui_model.py WEBUI FOLDER`; what it writes is laid out as tests/webui/checkpoint.py does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "webui"))

import checkpoint  # noqa: E402 - of tests/webui

TEXT = {"hidden_size": 768, "intermediate_size": 3072, "projection_dim": 768, "num_attention_heads": 12}
tiny_text = checkpoint.text_config


def text_config() -> dict[str, Any]:
    """Return the text encoder's configuration in its real sizes."""
    return {**tiny_text(), **TEXT}


def name_text_encoder(config: Any, clip: str, arch: str | None) -> Any:
    """Leave the UNet's sizes as they are; the autoencoder, which no network touches, stays small."""
    config.model.params.unet_config.params.use_checkpoint = False
    config.model.params.first_stage_config.params.ddconfig.ch = 32
    config.model.params.cond_stage_config.params = {"version": clip}
    return config


def main(webui: str, folder: str) -> None:
    """Write the checkpoint."""
    torch.set_num_threads(1)
    out = Path(folder)
    checkpoint.text_config, checkpoint.shrink_ldm = text_config, name_text_encoder
    checkpoint.enter_webui(Path(webui), out / "data")
    for place in (out / "clip", checkpoint.hub_folder(out / "hub", "openai/clip-vit-large-patch14")):
        checkpoint.write_clip_folder(place)
    checkpoint.make_checkpoint("sd1", 1, Path(webui), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
