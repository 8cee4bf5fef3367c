"""Images and captions on disk -> batches of latents and texts."""
