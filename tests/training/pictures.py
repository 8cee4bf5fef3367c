"""Folders of images for trainings: scenes that a program draws, in a style that a network is to learn, with their captions."""

from __future__ import annotations

from pathlib import Path
from random import Random

from lib_lycoris.training.demo import styles
from lib_lycoris.training.demo.scenes import random_scene
from lib_lycoris.training.demo.styles import Style

SEED = 3


def folder(root: Path, count: int = 20, style: Style = styles.negative, repeats: int = 5) -> Path:
    """Make a folder with one subfolder of images and captions, and return it."""
    inner = root / f"{repeats}_scene"
    inner.mkdir(parents=True)
    choose = Random(SEED)
    for number in range(count):
        scene = random_scene(choose)
        style(scene).save(inner / f"{number:02d}.png")
        (inner / f"{number:02d}.txt").write_text(scene.caption)
    return root
