"""What a training says of itself: metadata, events, images, measures."""
