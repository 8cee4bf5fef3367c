"""A network file in, a changed network file out: resize, convert, bake, split, prune."""
