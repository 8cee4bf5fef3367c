"""The difference of two checkpoints as a network."""
