"""Training networks; never imported by a webui."""
