"""What suits a use: starting points for dim, alpha, algorithm and rate, from the trainers' guidelines (docs/training.md names them)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# LyCORIS' Guidelines: alpha dim/2 or less; LoHa for styles; LoKr with a large factor for small files; attention and feed-forward by default
USES: Mapping[str, Mapping[str, Any]] = {
    "character": {
        "network_module": "lycoris.kohya", "network_dim": 16, "network_alpha": 8.0, "network_args": ["algo=lora", "preset=attn-mlp"],
    },
    "style": {
        "network_module": "lycoris.kohya", "network_dim": 16, "network_alpha": 8.0, "network_args": ["algo=loha", "preset=attn-mlp"],
    },
    "concept": {
        "network_module": "lycoris.kohya", "network_dim": 100000, "network_alpha": 1.0,
        "network_args": ["algo=lokr", "factor=8", "preset=attn-mlp"],
    },
    "small file": {
        "network_module": "lycoris.kohya", "network_dim": 8, "network_alpha": 4.0,
        "network_args": ["algo=lokr", "factor=-1", "preset=attn-mlp"],
    },
}  # fmt: skip
