"""Which numbers the options of a training can mean: one that is out of its range is said before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ToolError

SHARES = frozenset({"caption_dropout_rate", "caption_tag_dropout_rate", "validation_split", "network_dropout", "ema_decay"})
LEAST: Mapping[str, int] = {
    **dict.fromkeys(
        ("max_train_steps", "train_batch_size", "gradient_accumulation_steps", "network_dim", "bucket_reso_steps", "dataset_repeats",
         "lr_scheduler_num_cycles", "clip_skip", "t5xxl_max_token_length", "num_repeats"), 1,
    ),
    **dict.fromkeys(
        ("max_train_epochs", "learning_rate", "unet_lr", "text_encoder_lr", "lr_warmup_steps", "max_grad_norm", "scale_weight_norms",
         "network_alpha", "min_snr_gamma", "multires_noise_iterations", "ip_noise_gamma", "huber_c", "huber_scale", "prior_loss_weight",
         "keep_tokens", "caption_dropout_every_n_epochs", "min_bucket_reso", "max_bucket_reso", "save_every_n_steps",
         "save_every_n_epochs", "save_last_n_steps", "save_last_n_epochs", "keep_last", "sample_every_n_steps", "sample_every_n_epochs",
         "validate_every_n_steps", "max_validation_steps", "state_every_n_steps", "spectra_every_n_steps", "lr_scheduler_power"), 0,
    ),
}  # fmt: skip


def check_ranges(options: Mapping[str, Any]) -> None:
    """Raise ToolError naming the first option whose number is out of its range."""
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            if one is None:
                continue
            if name in SHARES and not 0 <= one < 1:
                raise ToolError(f"--{name} is {one}, but a share from 0 to below 1 is expected")
            if name in LEAST and one < LEAST[name]:
                raise ToolError(f"--{name} is {one}, but {LEAST[name]} or more is expected")
