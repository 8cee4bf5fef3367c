"""Checkpoints and network files as the tools read and write them."""
