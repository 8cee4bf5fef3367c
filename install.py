"""Run by the webui at every start: installs nothing, and says in one sentence what is too old for us."""

import importlib.metadata
import re
import sys
from pathlib import Path

OLDEST = {"torch": (2, 0), "safetensors": (0, 4), "gradio": (3, 41)}
OLDEST_WEBUI = (1, 7)


def numbers(version):
    """Return the first two numbers of a version, such as (2, 1) of "2.1.2+cu121"."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def webui_version(folders):
    """Return the version that the webui's list of changes begins with, or None outside of AUTOMATIC1111's webui."""
    for folder in folders:
        changes = Path(folder or ".", "CHANGELOG.md")
        if Path(folder or ".", "webui.py").is_file() and changes.is_file():
            with changes.open(encoding="utf-8", errors="replace") as lines:
                found = re.match(r"#+\s*v?(\d+\.\d+\S*)", lines.readline())
            return found.group(1) if found else None
    return None


def too_old(installed, webui):
    """Return one sentence a thing that is too old; `installed` is name -> version, or None for what is not there."""
    told = []
    for name, oldest in OLDEST.items():
        version, wanted = installed.get(name), ".".join(map(str, oldest))
        if version is None:
            told.append(f"sd-webui-lycoris needs {name} {wanted} or newer, and there is none.")
        elif numbers(version) < oldest:
            told.append(f"sd-webui-lycoris needs {name} {wanted} or newer; this is {version}, so update the webui.")
    if webui is not None and numbers(webui) < OLDEST_WEBUI:
        wanted = ".".join(map(str, OLDEST_WEBUI))
        told.append(f"sd-webui-lycoris needs webui {wanted} or newer; this is {webui}, so update the webui.")
    return told


def installed_versions():
    """Return the versions of what we need, None for what is not installed."""
    found = {}
    for name in OLDEST:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    for sentence in too_old(installed_versions(), webui_version([Path.cwd(), *sys.path])):
        print(sentence)
