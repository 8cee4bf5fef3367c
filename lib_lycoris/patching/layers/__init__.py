"""Layers that compute with networks on: merged, in bypass, and the closures that their calls become."""
