"""The host that this package brings itself: a diffusers pipeline for the command line and the standalone app."""
