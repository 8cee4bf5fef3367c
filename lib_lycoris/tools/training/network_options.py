"""The options that say what is trained: the algorithm with its dims, and on which layers."""

from __future__ import annotations

from pathlib import Path

from .option import OWN, section
from .option import TrainingOption as Option

MODULES = (
    "networks.lora", "networks.lora_flux", "networks.dylora", "networks.lora_fa", "lycoris.kohya", "networks.loha", "networks.lokr",
)  # fmt: skip
ALGORITHMS = ("lora", "locon", "loha", "lokr", "dylora", "glora", "full", "diag-oft", "boft", "ia3", "tlora")  # of lycoris.kohya
USES = ("character", "style", "concept", "small file")  # what a preset of options is for

NETWORK = section(
    "Network",
    Option(
        "preset_for", "dim, alpha, algorithm and rate that suit a use; what is given beside it wins", choices=USES, source=OWN, runtime=True
    ),
    Option("network_module", "who names the algorithm", default="networks.lora", choices=MODULES),
    Option("network_dim", "the rank", int, 16, aliases=("--dim",)),
    Option("network_alpha", "the scale is alpha / dim", float, 1.0, aliases=("--alpha",)),
    Option("network_dropout", "share of a module's inputs left out", float),
    Option("network_args", "name=value: algo, preset, conv_dim, conv_alpha, factor, dora_wd, ...", nargs="+"),
    Option("network_train_unet_only", "leave the text encoders alone", bool),
    Option("network_train_text_encoder_only", "leave the UNet alone", bool),
    Option("network_weights", "begin with this network file", Path, kind="network"),
    Option("dim_from_weights", "take dims and alphas from that file", bool),
)
