"""Checkpoints as the tools read and write them: single files, folders, quantised ones."""
