"""The host that this package brings itself: a diffusers pipeline for the command line and the standalone app."""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # at its import it says, in every program, what it lacks for 4 bits on a CPU
