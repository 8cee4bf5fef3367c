"""For tests only: has Forge Neo load each model in part, as where memory is short: most layers are patched and moved as they run."""

from backend.patcher import base

LOADED = 8 << 20  # bytes of a model that count as loaded

full = base.ModelPatcher.load


def load(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
    """Load as if there were memory for a part only."""
    return full(self, device_to, lowvram_model_memory=LOADED, force_patch_weights=force_patch_weights, full_load=False)


base.ModelPatcher.load = load
