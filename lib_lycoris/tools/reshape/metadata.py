"""What a network file says about itself: show it, edit it, repair it, strip it. The tensors stay as they are, byte for byte."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import LycorisError, ToolError
from ...models import FAMILIES, detect_family, recognise
from ...networks.hashes import model_hash
from ...networks.loading import module_shapes, no_network, open_keys
from ...networks.reading.folder import SAFETENSORS, files_below
from ...networks.reading.header import read_header
from ...networks.settings.source import NOTHING
from ...records import dataclass
from ...wording import counted
from ..declaration import FilePath, Files, Option, Plan, Result, Texts, Tool, as_list, options_of
from ..files.metadata import KEY as RECIPE
from ..files.networks.header_edit import SUFFIX, keep_header, legacy_hash, restore, rewrite, undo_path, with_metadata
from ..files.networks.own_config import CONFIG
from ..jobs.progress import Cancelled, Progress
from ..units import megabytes

FIELDS = {  # option -> its key
    "title": "modelspec.title", "triggers": "modelspec.trigger_phrase", "author": "modelspec.author", "license": "modelspec.license",
    "description": "modelspec.description", "usage_hint": "modelspec.usage_hint", "tags": "modelspec.tags",
}  # fmt: skip
OLDER = {"modelspec.title": ("ss_output_name",), "modelspec.trigger_phrase": ("ssmd_keywords",), "modelspec.author": ("ssmd_author",),
         "modelspec.description": ("ssmd_description", "ss_training_comment")}  # fmt: skip
THUMBNAIL, SPEC = "modelspec.thumbnail", "modelspec.sai_model_spec"
IMAGES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}
LARGEST_IMAGE = 300_000  # bytes: every program that lists files reads it
NEEDED = (  # by what reads the tensors: without them a file may mean something else, or be taken for another model's
    "format", "ss_network_module", "ss_network_args", "ss_network_dim", "ss_network_alpha", "ss_base_model_version", "ss_v2",
    "ss_v_parameterization", CONFIG, "modelspec.architecture", "modelspec.prediction_type", SPEC,
    "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256",
)  # fmt: skip
STRIPS: dict[str, Callable[[str], bool]] = {
    "training": lambda key: key.startswith("ss_"),
    "paths": lambda key: (
        key in ("ss_dataset_dirs", "ss_datasets", "ss_reg_dataset_dirs", "ss_sd_model_name", "ss_vae_name", "ss_session_id")
    ),
    "tags": lambda key: key == "ss_tag_frequency",
    "thumbnail": lambda key: key == THUMBNAIL,
    "recipe": lambda key: key == RECIPE,
    "all": lambda key: True,
}
Metadata = Mapping[str, str]


@dataclass(frozen=True)
class Edit:
    """What is asked for, of every file alike."""

    values: Metadata  # key -> text; an empty one removes the key
    strip: tuple[str, ...]
    repair: bool
    undo: bool
    save_to: Path | None

    @property
    def writes(self) -> bool:
        """Whether anything is to be changed."""
        return bool(self.values or self.strip or self.repair or self.undo)


def edit_metadata(
    models: Files, title: str | None = None, triggers: str | None = None, author: str | None = None, license: str | None = None,
    description: str | None = None, usage_hint: str | None = None, tags: str | None = None, thumbnail: FilePath | None = None,
    set: Texts | None = None, remove: Texts | None = None, strip: Texts | None = None, repair: bool = False, undo: bool = False,
    in_place: bool = False, save_to: FilePath | None = None, progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Show or change the metadata of network files; one that cannot be changed is reported, and the others are done.

    Raises:
        ToolError: an option is wrong, or it is not said where the result goes.
    """
    options = options_of(locals())
    edit, files, progress = _asked(options), list(_files(models)), progress or Progress()
    _check_targets(edit, files, options)
    reports = [_one(path, lambda path: _do(path, edit, progress)) for path in files]
    written = tuple(Path(report["output"]) for report in reports if report.get("output"))
    return Result(_report(reports), "\n".join(_text(report, edit) for report in reports), written)


def plan(**options: Any) -> Plan:
    """Tell what would be changed in each file."""
    edit, files = _asked(options), list(_files(options["models"]))
    _check_targets(edit, files, options)
    reports = [_one(path, lambda path: _before(path, edit)) for path in files]
    size = sum(path.stat().st_size for path, report in zip(files, reports) if report.get("changes"))
    text = "\n".join(f"would change {_text(report, edit)}" if report.get("changes") else _text(report, edit) for report in reports)
    return Plan(_report(reports), text, 0.05 + size / 1e9, 10_000_000, size)


def _report(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    changed, failed = (sum(bool(report.get(key)) for report in reports) for key in ("changes", "error"))
    return {"files": list(reports), "changed": changed, "failed": failed, "ok": not failed}


def _asked(options: Mapping[str, Any]) -> Edit:
    values = {key: str(options[name]) for name, key in FIELDS.items() if options.get(name) is not None}
    for pair in as_list(options.get("set")):
        key, equals, value = str(pair).partition("=")
        if not equals or not key.strip():
            raise ToolError(f'"{str(pair)[:80]}" sets nothing; write KEY=VALUE, such as modelspec.resolution=1024x1024')
        values[key.strip()] = value
    values.update({str(key): "" for key in as_list(options.get("remove"))})
    if options.get("thumbnail") is not None:
        values[THUMBNAIL] = _thumbnail(Path(options["thumbnail"]))
    strip = tuple(str(kind) for kind in as_list(options.get("strip")))
    edit = Edit(values, strip, bool(options.get("repair")), bool(options.get("undo")), _path(options.get("save_to")))
    if edit.undo and (values or strip or edit.repair or edit.save_to):
        raise ToolError("undo gives the old metadata back; ask for other changes in a run of their own")
    return edit


def _path(value: Any) -> Path | None:
    return None if value is None else Path(value)


def _thumbnail(path: Path) -> str:
    """Return an image as a model's metadata holds one."""
    if not path.is_file():
        raise ToolError(f"{path.name} is not there, or no file; give an image as the thumbnail")
    with path.open("rb") as file:  # no more than is needed: it may be a model
        data = file.read(LARGEST_IMAGE + 1)
    kind = next((kind for start, kind in IMAGES.items() if data.startswith(start)), None)
    if kind is None:
        raise ToolError(f"{path.name} is no PNG, JPEG or WebP image; give one as the thumbnail")
    if len(data) > LARGEST_IMAGE:
        raise ToolError(f"{path.name} has more than {megabytes(LARGEST_IMAGE)}; give a smaller thumbnail, such as 256x256")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _files(models: Files) -> Iterator[Path]:
    """Give the files, those of a folder and its subfolders among them."""
    for one in dict.fromkeys(map(Path, as_list(models))):
        if not one.is_dir():
            yield one
            continue
        found = files_below(one, (SAFETENSORS,))
        if not found:
            raise ToolError(f"{one} holds no .safetensors file")
        yield from found


def _check_targets(edit: Edit, files: Sequence[Path], options: Mapping[str, Any]) -> None:
    if not edit.writes:
        if edit.save_to is not None or options.get("in_place"):
            raise ToolError("nothing says what to change; give title, triggers, set, remove, strip, repair or another of the fields")
        return
    if edit.save_to is not None and (len(files) != 1 or options.get("in_place")):
        raise ToolError("save_to takes the copy of one file; leave it out and give in_place for several, or for the file itself")
    if edit.save_to is not None and edit.save_to.suffix != ".safetensors":
        raise ToolError(f"{edit.save_to.name} must end in .safetensors")
    if edit.save_to is None and not options.get("in_place") and not edit.undo:
        raise ToolError("say where to: save_to for a copy, or in_place to change the file itself (undo gives the old metadata back)")


def _one(path: Path, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    if not path.exists():
        return {"file": str(path), "error": f"there is no {path}"}
    try:
        return {"file": str(path), **work(path)}
    except Cancelled:
        raise
    except (LycorisError, OSError) as error:
        return {"file": str(path), "error": str(error)}


def _before(path: Path, edit: Edit) -> dict[str, Any]:
    """Return what a file says, and what would become of it."""
    if path.suffix.lower() != ".safetensors":
        raise ToolError(f"{path.name} is no .safetensors file; only these have metadata")
    header = read_header(path)
    if edit.undo:
        return {"changes": {}, "undo": undo_path(path).exists()}
    old = dict(header.metadata)
    new = _changed(path, old, edit) if edit.writes else old
    keys = sorted({key for key in (*old, *new) if old.get(key) != new.get(key)})
    return {"metadata": new, "changes": {key: [_short(old.get(key)), _short(new.get(key))] for key in keys}}


def _do(path: Path, edit: Edit, progress: Progress) -> dict[str, Any]:
    if edit.undo:
        restore(path, progress)
        return {"restored": True, "output": str(path)}
    report = _before(path, edit)
    if not report["changes"]:
        if edit.save_to is not None:
            raise ToolError(f"it says so already: nothing is changed, and {edit.save_to.name} was not written")
        return report
    beside = open_keys(path)[1].config_text if edit.save_to is not None and report["metadata"].get(CONFIG) in NOTHING else None
    whole = {**report["metadata"], **({CONFIG: beside} if beside else {})}  # a copy elsewhere would lose PEFT's config
    raw = with_metadata(read_header(path), whole, path.name)
    if edit.save_to is None:
        report["undo_file"] = str(keep_header(path))
    elif edit.save_to.exists() and edit.save_to.samefile(path):
        raise ToolError(f"{edit.save_to.name} is the input; give in_place to change the file itself")
    rewrite(path, edit.save_to or path, raw, progress)
    return {**report, "output": str(edit.save_to or path)}


def _changed(path: Path, old: Metadata, edit: Edit) -> dict[str, str]:
    """Return the new metadata: stripped, then edited, then repaired."""
    new = {key: value for key, value in old.items() if key in NEEDED or not any(STRIPS[kind](key) for kind in edit.strip)}
    for key, value in edit.values.items():
        new.pop(key, None)
        if value:
            new[key] = value
    if any(key in edit.values and edit.values[key] for key in (*FIELDS.values(), THUMBNAIL)):
        new.setdefault(SPEC, "1.0.0")
    return {**new, **_repairs(path, new)} if edit.repair else new


def _repairs(path: Path, metadata: Metadata) -> dict[str, str]:
    """Return what a file should say and does not: its hashes, its base model, its title and trigger words in today's keys."""
    digest = model_hash(path)
    found = {"sshs_model_hash": digest, "sshs_legacy_hash": legacy_hash(path, metadata), SPEC: metadata.get(SPEC, "1.0.0")}
    if "modelspec.hash_sha256" in metadata:
        found["modelspec.hash_sha256"] = f"0x{digest}"
    file, source, keys = open_keys(path)
    if reason := no_network(file, source, keys):
        raise ToolError(f"{reason}; only networks are repaired")
    shapes = module_shapes(file, keys)
    family = detect_family(shapes, metadata) if len(recognise(shapes, metadata).candidates) < 2 else None  # of several none is said
    architecture = FAMILIES[family].written.get("modelspec.architecture") if family is not None and family in FAMILIES else None
    if architecture:
        found["modelspec.architecture"] = metadata.get("modelspec.architecture") or f"{architecture}/lora"
    if metadata.get("ss_v_parameterization") == "True":
        found["modelspec.prediction_type"] = metadata.get("modelspec.prediction_type", "v")
    for key, others in OLDER.items():
        value = metadata.get(key) or next((metadata[other] for other in others if metadata.get(other) not in (None, "", "None")), None)
        if value:
            found[key] = value
    found.setdefault("modelspec.title", path.stem)
    return found


def _short(value: str | None) -> str | None:
    return value if value is None or len(value) <= 200 else f"{value[:100]}... ({len(value)} characters)"


def _text(report: Mapping[str, Any], edit: Edit) -> str:
    """Return the report on one file for people."""
    name = Path(report["file"]).name
    if "error" in report:
        return f"{name}: {report['error']}"
    if edit.undo:
        return (
            f"{name}: the old metadata is back"
            if report.get("restored")
            else f"{name}: {'can' if report['undo'] else 'cannot'} be restored"
        )
    if not edit.writes:
        return "\n".join([f"{name}:", *_shown(report["metadata"])])
    lines = [f"  {key}: {_quoted(old)} -> {_quoted(new)}" for key, (old, new) in report["changes"].items()]
    where = f" in {edit.save_to.name}" if edit.save_to is not None else ""
    changed = f"{counted(len(lines), 'entry', 'entries')} changed{where}" if lines else "nothing to change"
    return "\n".join([f"{name}: {changed}", *lines])


def _quoted(value: str | None) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)


def _shown(metadata: Metadata) -> Iterator[str]:
    """Give the lines that show a file's metadata: the fields that can be edited, then how much else there is."""
    for name, key in FIELDS.items():
        value = next((metadata[one] for one in (key, *OLDER.get(key, ())) if metadata.get(one)), None)
        yield f"  {name.replace('_', ' ')}: {_short(value) or '-'}"
    yield f"  thumbnail: {megabytes(len(metadata[THUMBNAIL]) * 3 / 4)}" if THUMBNAIL in metadata else "  thumbnail: -"
    others = [key for key in metadata if key not in (*FIELDS.values(), THUMBNAIL)]
    shown = ", ".join(others[:12]) + (", ..." if len(others) > 12 else "")
    yield f"  {counted(len(others), 'other entry', 'other entries')}: {shown} (--json prints them)"


TOOL = Tool(
    "metadata", "Write metadata", "show, edit, repair or strip what network files say about themselves", edit_metadata, plan,
    (
        Option("models", "network files, or folders of them", Path, flag="models", nargs="+", required=True, kind="networks",
               walks=True),
        Option("title", 'the title; "" removes it, as with the other texts'),
        Option("triggers", "trigger words, with commas between them"), Option("author", "who made it"),
        Option("license", "the licence, such as CC-BY-4.0"), Option("description", "what it is and does"),
        Option("usage_hint", "how to use it, such as a good strength"),
        Option("tags", "tags by which it is found, with commas between them"),
        Option("thumbnail", "an image: PNG, JPEG or WebP, up to 0.3 MB", Path, kind="file"),
        Option("set", "other entries, as KEY=VALUE", nargs="+"), Option("remove", "entries to remove, by their keys", nargs="+"),
        Option("strip", "kinds of entries to remove; what the tensors need to be understood stays", choices=tuple(STRIPS), nargs="+"),
        Option("repair", "correct the hashes, add what is missing: base model, title, trigger words in today's keys", bool, default=False),
        Option("undo", f"give the metadata back that a file had before, from the {SUFFIX} file beside it", bool, default=False),
        Option("in_place", "change the files themselves; the old metadata is kept beside each", bool, default=False),
        Option("save_to", "the copy to write, with the new metadata", Path, kind="output", aliases=("-o", "--output")),
    ),
)  # fmt: skip
