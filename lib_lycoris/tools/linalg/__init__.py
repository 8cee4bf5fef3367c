"""Low-rank approximation: decompositions, exact factors, rank rules, size and error curves."""
