"""The words that the demo model knows, whose tokenizer is made of them: each is one token, every other word is spelled in bytes."""

from __future__ import annotations

SHAPES = ("circle", "square", "triangle", "star", "heart", "house", "tree")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "gray", "black")
SIZES = ("small", "big")
PLACES = ("left", "right", "top", "bottom", "middle")
OTHERS = ("a", "an", "the", "and", "on", "in", "at", "of", "corner", "background", "picture", "scene", "glimmer")
WORDS = (*SHAPES, *COLOURS, *SIZES, *PLACES, *OTHERS)
