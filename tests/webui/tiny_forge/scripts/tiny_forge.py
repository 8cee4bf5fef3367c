"""Teach a running Forge, Forge Neo, reForge or Forge Classic the tiny test checkpoints' widths, which its tables of models do not have.

This is an extension of its own, so that a run without ours has it too.
"""

import json
from pathlib import Path

from modules import scripts

SIZES = json.loads((Path(scripts.basedir()) / "sizes.json").read_text())
TEXT = SIZES["text"]


def teach_forge(models):
    """Forge and Forge Neo take widths from a table of models and from the configuration files of the real ones."""
    from backend.nn.vae import IntegratedAutoencoderKL
    from transformers import CLIPTextConfig

    models.SD15.unet_config = {**models.SD15.unet_config, **SIZES["unet"]}
    read_text, read_vae = CLIPTextConfig.from_pretrained, IntegratedAutoencoderKL.load_config

    def small_text(*args, **kwargs):
        config = read_text(*args, **kwargs)
        for key, value in TEXT.items():
            setattr(config, key, value)
        return config

    def small_vae(*args, **kwargs):
        config = read_vae(*args, **kwargs)
        return {**config, "block_out_channels": SIZES["vae"]}

    CLIPTextConfig.from_pretrained = small_text
    IntegratedAutoencoderKL.load_config = small_vae


def teach_reforge():
    """reForge and Forge Classic take the autoencoder's widths from their code and the text encoder's from a file."""
    import ldm_patched.modules.sd as sd
    from ldm_patched.modules import sd1_clip, supported_models

    models = supported_models.SD15
    models.unet_config = {**models.unet_config, **SIZES["unet"]}
    make = sd1_clip.SDClipModel.__init__
    text = Path(scripts.basedir()) / "text.json"
    text.write_text(json.dumps(SIZES["reforge_text"]))

    def small_clip(self, *args, **kwargs):
        kwargs["textmodel_json_config"] = str(text)
        make(self, *args, **kwargs)

    sd1_clip.SDClipModel.__init__ = small_clip
    autoencoder = sd.AutoencoderKL

    def small_autoencoder(ddconfig, **kwargs):
        step = SIZES["vae"][0]
        return autoencoder(ddconfig={**ddconfig, "ch": step}, **kwargs)

    sd.AutoencoderKL = small_autoencoder


try:
    from huggingface_guess import model_list
except ImportError:
    teach_reforge()
else:
    teach_forge(model_list)
