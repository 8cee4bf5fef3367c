"""The webuis that the battery runs in: how a folder is recognised, and how one is started on CPU in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMON = ("--skip-prepare-environment", "--skip-install", "--skip-torch-cuda-test", "--skip-python-version-check", "--skip-version-check",
          "--api", "--api-server-stop", "--disable-console-progressbars")  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One program."""

    name: str
    mark: str  # a file or folder that only this one has
    flags: tuple[str, ...]
    teacher: str  # the extension that teaches it the tiny widths
    maker: str  # the script that makes tiny checkpoints of its classes
    checkpoints: str = "--ckpt-dir"
    loaded: str = "Model loaded in"  # what the log says once the first model is there; empty where that waits for an image
    settings: tuple[tuple[str, object], ...] = ()
    hires: tuple[tuple[str, object], ...] = (("hr_upscaler", "Latent"),)  # what a request with a hires pass says besides
    checkpoint_kinds: tuple[str, ...] = ("sd1", "sd1:2")  # what the maker can make
    fp8: tuple[tuple[str, object], ...] = ()  # the setting that stores the UNet's weights in fp8
    fp8_flags: tuple[str, ...] = ()  # the flags that do, where no setting does

    def command(self, python: Path, folder: Path, data: Path, models: Path, port: int) -> list[str]:
        """Return the command line; every folder that the webui writes to lies under `data`."""
        places = {
            "--port": port, "--data-dir": data, self.checkpoints: models / "checkpoints",
            "--lora-dir": data / "models" / "Lora", "--embeddings-dir": data / "embeddings",
            "--ui-settings-file": data / "config.json", "--ui-config-file": data / "ui-config.json",
        }  # fmt: skip
        return [str(python), str(folder / "launch.py"), *COMMON, *self.flags, *(str(item) for pair in places.items() for item in pair)]


FLOAT32 = ("--always-cpu", "--all-in-fp32", "--vae-in-fp32", "--clip-in-fp32")
FP8 = (("forge_unet_storage_dtype", "float8-e4m3fn (fp16 LoRA)"),)
SAME = ("hr_additional_modules", ["Use same choices"])
FORGE = ("tiny_forge", "forge_checkpoint.py")
NEO_FLAGS = ("--cpu", "--fp32-unet", "--fp32-vae", "--fp32-text-enc")
A1111_FLAGS = ("--use-cpu", "all", "--no-half", "--no-half-vae", "--no-download-sd-model", "--do-not-download-clip")
A1111_CHECKPOINTS = ("sd1", "sd1:2", "sd2", "sdxl", "refiner")
KINDS: Sequence[Kind] = (  # the most special first
    Kind(
        "neo", "modules_forge/packages/comfy", NEO_FLAGS, *FORGE, checkpoints="--ckpt-dirs", loaded="",
        settings=(("VERSION_UID", "PY313"),), hires=(SAME, ("hr_upscaler", "None")), fp8=FP8,
    ),
    Kind("forge", "backend/patcher", FLOAT32, *FORGE, loaded="", hires=(SAME, ("hr_upscaler", "Latent")), fp8=FP8),
    Kind("reforge", "ldm_patched", FLOAT32, *FORGE, loaded=" loaded in ", fp8_flags=("--unet-in-fp8-e4m3fn",)),
    Kind("a1111", "modules/sd_hijack.py", A1111_FLAGS, "tiny_models", "checkpoint.py", checkpoint_kinds=A1111_CHECKPOINTS),
)  # fmt: skip


def recognise(folder: Path) -> Kind:
    """Return which program a folder holds; raise ValueError where it is none of these."""
    for kind in KINDS:
        if (folder / kind.mark).exists():
            return kind
    raise ValueError(f"{folder} is no webui that the battery knows ({', '.join(kind.name for kind in KINDS)})")
