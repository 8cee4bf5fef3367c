"""Teach a running webui the sizes of the tiny test checkpoints that its configuration files cannot name.

The webui guesses a checkpoint's configuration file from its keys: here it gets the tiny one of the same kind. open_clip
picks an architecture by name, and SD3's text encoders have their sizes in module constants. This is an extension of its
own, so that a run without ours has it too.
"""

import json
from pathlib import Path

import open_clip
from modules import scripts, sd_models_config, shared
from modules.models.sd3 import sd3_cond

FOLDER = Path(scripts.basedir())

open_clip.add_model_config(FOLDER / "open_clip")
for constant, sizes in json.loads((FOLDER / "sd3_text_encoders.json").read_text()).items():
    getattr(sd3_cond, constant).update(sizes)

CONFIGS = {"sd1": "config_default", "inpaint": "config_inpainting", "sdxl": "config_sdxl", "refiner": "config_sdxl_refiner"}
for kind, constant in CONFIGS.items():
    file = Path(shared.cmd_opts.ckpt_dir).parent / "configs" / f"{kind}.yaml"
    if file.is_file():
        setattr(sd_models_config, constant, str(file))
