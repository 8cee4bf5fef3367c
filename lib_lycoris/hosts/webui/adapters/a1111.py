"""The webui's running model: which parts hold layers that networks change, of which family, and whether it is still the same."""

from __future__ import annotations

from typing import Any

from torch import nn


def current() -> Any:
    """Return the model that the webui computes with now; None while there is none. Never loads one."""
    from modules import sd_models

    return sd_models.model_data.sd_model


def identity(model: Any) -> str:
    """Return a text that changes with the model object and with the checkpoint whose weights it holds."""
    info = getattr(model, "sd_checkpoint_info", None)
    return f"{id(model)}:{getattr(info, 'filename', '')}"


def label(model: Any) -> str:
    """Return the checkpoint's name."""
    info = getattr(model, "sd_checkpoint_info", None)
    return str(getattr(info, "name_for_extra", "the loaded model"))


def family(model: Any) -> str:
    """Return the family of the loaded model as the webui itself tells it: widths of a live model need not be the usual ones."""
    if getattr(model, "is_sd3", False):
        return "sd3"
    if getattr(model, "is_sdxl", False):
        first = model.conditioner.embedders[0]
        return "sdxl" if hasattr(getattr(first, "wrapped", first), "transformer") else "sdxl-refiner"
    return "sd2" if getattr(model, "is_sd2", False) else "sd1"


def parts(model: Any) -> dict[str, nn.Module]:
    """Return the UNet's and the text encoders' modules; the webui holds the same encoder under two names."""
    conditioner = getattr(model, "conditioner", None)
    if conditioner is not None:
        return {"model": model.model, "conditioner": conditioner}
    return {"model": model.model, "cond_stage_model": model.cond_stage_model}
