"""The demo: a small Stable Diffusion 1 that draws coloured shapes as the prompt says, and one trained network for each algorithm.

`demo-scenes.safetensors` is a whole checkpoint with SD1's layout and names, so that every tool takes it as one: two million
parameters, images of 64 x 64 pixels, half precision. It was trained from nothing on scenes that a program draws with their captions:
*a red circle on the left, a blue square on the right, white background*. `networks/` holds the demo networks, each trained on the
checkpoint with lycoris-lora 4.1.3 as any network is trained; the effect of each is in its metadata (``modelspec.description``).
Nothing in either comes from anybody's images. To make all of it again, with `pip install -e .[app,oracle]`:

    python -m lib_lycoris.training.demo            # all: autoencoder, base model, networks, sheets
    python -m lib_lycoris.training.demo networks   # one stage; --only demo-lora for one network

Seeds are fixed, so the same versions on the same processor give the same files; elsewhere they give equally good ones.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CHECKPOINT = FOLDER / "demo-scenes.safetensors"
NETWORKS = FOLDER / "networks"
