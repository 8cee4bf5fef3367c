"""Make the demo model, its networks and the README's sheets again: `python -m lib_lycoris.training.demo [STAGE] [--only NETWORK]`."""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

import torch

from ...demo import CHECKPOINT, NETWORKS
from ...tools.units import megabytes
from . import autoencoder, base, checkpoint, networks, sheets, styles
from .recipes import RECIPES
from .scenes import Scene, pixels, random_scene, render

STAGES = ("autoencoder", "base", "networks", "sheets")
SEED = 1
AUTOENCODER_SCENES, AUTOENCODER_STEPS, DECODER_STEPS = 6000, 800, 2000
BASE_SCENES, ROUNDS = 24000, ((2400, 2e-3), (1800, 1.2e-3), (2000, 1.5e-3))  # steps and rate
TITLE = "Demo scenes"
ABOUT = "A toy that draws coloured shapes as the prompt says, trained from nothing on scenes that a program draws."


def main() -> None:
    """Run one stage, or all of them in their order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", nargs="?", choices=STAGES, help="one stage (default: all)")
    parser.add_argument("--only", choices=list(RECIPES), help="of the networks, just this one")
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="a folder for what stands between the stages")
    parser.add_argument("--sheets", type=Path, default=Path("docs/images"), help="a folder for the README's sheets")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # two sums in another order are two models
    torch.manual_seed(SEED)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for stage in [arguments.stage] if arguments.stage else STAGES:
        if stage == "autoencoder":
            _autoencoder(arguments.work)
        elif stage == "base":
            _base(arguments.work)
        elif stage == "networks":
            for name in [arguments.only] if arguments.only else RECIPES:
                path = networks.train(name, RECIPES[name], CHECKPOINT, NETWORKS)
                print(f"{path.name}: {megabytes(path.stat().st_size)}")
        else:
            sheets.write(arguments.sheets)


def _scenes(seed: int, count: int) -> list[Scene]:
    rng = Random(seed)
    return [random_scene(rng) for _ in range(count)]


def _autoencoder(work: Path) -> None:
    """Train the autoencoder on plain scenes and on every style that a network will need, one image in three."""
    drawn = []
    for number, scene in enumerate(_scenes(SEED, AUTOENCODER_SCENES)):
        drawn.append(render(scene) if number % 3 else styles.STYLES[number // 3 % len(styles.STYLES)](scene))
    pictures = torch.from_numpy(pixels(drawn))
    model = autoencoder.sharpen(autoencoder.train(pictures, AUTOENCODER_STEPS), pictures, DECODER_STEPS)
    torch.save(model.state_dict(), work / "autoencoder.pt")


def _base(work: Path) -> None:
    """Train text encoder and UNet on latents of plain scenes, and write the checkpoint."""
    model = autoencoder.fresh()
    model.load_state_dict(torch.load(work / "autoencoder.pt"))
    scenes = _scenes(SEED + 1, BASE_SCENES)
    latents = torch.cat([
        autoencoder.encode(model, torch.from_numpy(pixels([render(scene) for scene in scenes[start : start + 64]])))
        for start in range(0, len(scenes), 64)
    ])  # fmt: skip
    unet, text_encoder = base.train(latents, [scene.caption for scene in scenes], ROUNDS)
    checkpoint.write(base.Model(model, unet, text_encoder), CHECKPOINT, checkpoint.describe(TITLE, ABOUT))
    print(f"{CHECKPOINT.name}: {megabytes(CHECKPOINT.stat().st_size)}")


if __name__ == "__main__":
    main()
