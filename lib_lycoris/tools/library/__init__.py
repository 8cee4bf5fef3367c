"""Many network files at once: what they have in common, and what a checkpoint is made of."""
