"""Sampler names as the webui writes them, and the diffusers schedulers behind them."""

from __future__ import annotations

from typing import Any

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
}


def scheduler_for(before: Any, sampler: str) -> Any:
    """Return a scheduler of this name with the noise schedule of the pipeline's own; raise KeyError for an unknown name."""
    import diffusers

    name, extra = SAMPLERS[sampler]
    return getattr(diffusers, name).from_config(before.config, **{"use_karras_sigmas": False, **extra})
