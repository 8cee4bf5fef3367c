"""Networks into checkpoints or into one network; verify and undo."""
