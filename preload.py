"""Adds `--lyco-dir` to the webui's command line; the built-in Lora loader keeps the folder that it has always taken from it."""

import argparse
import contextlib
import os


class BothLoaders(argparse.Action):
    """Store the folder for us and for the built-in loader, which would read `--lyco-dir` as short for its own option."""

    def __call__(self, parser, namespace, values, option_string=None):
        namespace.lyco_dir = namespace.lyco_dir_backcompat = values


def preload(parser):
    """Add our options; the webui calls this before it reads its command line."""
    # SD.Next has an option of this name itself; ours is then not needed
    with contextlib.suppress(argparse.ArgumentError):
        parser.add_argument(
            "--lyco-dir",
            action=BothLoaders,
            type=os.path.abspath,
            default=default_folder(),
            metavar="FOLDER",
            help="folder with LyCORIS networks (models/LyCORIS if not given)",
        )


def default_folder():
    """Return models/LyCORIS of the webui that we run in."""
    try:
        from modules.paths_internal import models_path
    except ImportError:
        models_path = os.path.abspath("models")
    return os.path.join(models_path, "LyCORIS")
