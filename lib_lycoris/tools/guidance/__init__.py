"""Advice on algorithms, ranks and sizes, with its sources."""
