"""What a network's metadata says of its training, in kohya's keys and the model spec's; no path of this machine."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import __version__
from ...models import FAMILIES
from ...networks.hashes import model_hash, sha256
from ..algorithms.arguments import NetworkRequest
from ..data.items import Catalogue
from ..models.base import TrainedModel
from ..settings import KEPT, Settings

SAME = (  # ss_NAME is the option's value
    "output_name", "learning_rate", "unet_lr", "text_encoder_lr", "gradient_checkpointing", "gradient_accumulation_steps",
    "max_train_steps",
        "lr_warmup_steps", "lr_scheduler", "network_module", "network_dim", "network_alpha", "network_dropout", "mixed_precision",
    "clip_skip", "max_token_length", "cache_latents", "seed", "noise_offset", "adaptive_noise_scale", "multires_noise_iterations",
    "multires_noise_discount", "ip_noise_gamma", "training_comment", "max_grad_norm", "caption_dropout_rate",
    "caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "prior_loss_weight", "min_snr_gamma", "scale_weight_norms",
    "debiased_estimation_loss", "zero_terminal_snr", "loss_type", "huber_schedule", "huber_c",
)  # fmt: skip
SPEC = {"title": "metadata_title", "author": "metadata_author", "description": "metadata_description", "license": "metadata_license",
        "tags": "metadata_tags"}  # fmt: skip


class Recorded:
    """The metadata of all files of one run; what the base model is, is looked up once."""

    def __init__(self, settings: Settings, request: NetworkRequest, model: TrainedModel, found: Catalogue, batches: int) -> None:
        self.settings, self.request, self.model, self.found, self.batches = settings, request, model, found, batches
        self.started = time.time()
        path = settings.pretrained_model_name_or_path
        file = Path(path) if path else model.file()
        whole = file if file is not None and file.is_file() else None
        self.base = {"ss_sd_model_name": file.name} if file is not None else {}
        if whole is not None:
            self.base |= {"ss_sd_model_hash": model_hash(whole)[:10], "ss_new_sd_model_hash": sha256(whole)}

    def metadata(self, step: int, epoch: int) -> dict[str, str]:
        """Return what a file of this step says."""
        kept = {KEPT: json.dumps(self.settings.kept(), sort_keys=True)}
        needed = self._network()
        if self.settings.no_metadata:
            return {"format": "pt", **needed}
        return {"format": "pt", **needed, **self._training(step, epoch), **self._data(), **self._spec(), **kept}

    def _network(self) -> dict[str, str]:
        """Return what a reader needs besides the tensors."""
        settings, request = self.settings, self.request
        module = settings.network_module if settings.network_module.startswith("networks.lora") else "lycoris.kohya"
        return {
            "ss_network_module": module, "ss_network_dim": str(settings.network_dim), "ss_network_alpha": str(settings.network_alpha),
            "ss_network_args": json.dumps(dict(request.given)), **self._family(),
        }  # fmt: skip

    def _family(self) -> dict[str, str]:
        written = dict(FAMILIES[self.model.family].written)
        if "modelspec.architecture" in written:
            written["modelspec.architecture"] += "/lora"
        return written

    def _training(self, step: int, epoch: int) -> dict[str, str]:
        values = {f"ss_{name}": str(getattr(self.settings, name)) for name in SAME if name not in ("network_module",)}
        return {
            **values, **self.base, "ss_session_id": str(self.settings.seed), "ss_training_started_at": str(self.started),
            "ss_training_finished_at": str(time.time()), "ss_steps": str(step), "ss_epoch": str(epoch), "ss_full_fp16": "False",
            "ss_optimizer": self.settings.optimizer_type, "ss_lowram": "False",
            "ss_sd_scripts_commit_hash": f"sd-webui-lycoris {__version__}", **self._network(),
        }  # fmt: skip

    def _data(self) -> dict[str, str]:
        own = [item for item in self.found.items if not item.subset.regularisation]
        folders: dict[str, dict[str, int]] = {}
        tags: dict[str, Counter[str]] = {}
        for item in self.found.items:
            name = item.subset.folder.name
            folders.setdefault(name, {"n_repeats": item.subset.repeats, "img_count": 0})["img_count"] += 1
            words = [word.strip() for word in item.caption.split(item.subset.caption_separator) if word.strip()]
            if item.subset.trigger_word:
                words.insert(0, item.subset.trigger_word)
            tags.setdefault(name, Counter()).update(words)
        resolution = self.found.datasets[0].resolution
        return {
            "ss_num_train_images": str(sum(item.subset.repeats for item in own)),
            "ss_num_reg_images": str(len(self.found.items) - len(own)),
            "ss_num_batches_per_epoch": str(self.batches), "ss_resolution": str(resolution), "ss_dataset_dirs": json.dumps(folders),
            "ss_tag_frequency": json.dumps({name: dict(counts.most_common()) for name, counts in tags.items()}),
            "ss_batch_size_per_device": str(self.found.datasets[0].batch_size),
        }  # fmt: skip

    def _spec(self) -> dict[str, str]:
        named = {f"modelspec.{key}": str(value) for key, name in SPEC.items() if (value := getattr(self.settings, name))}
        resolution: Mapping[str, Any] = {"modelspec.resolution": "{}x{}".format(*self.found.datasets[0].resolution)}
        trigger = {"modelspec.trigger_phrase": self.settings.trigger_word} if self.settings.trigger_word else {}
        return {
            "modelspec.sai_model_spec": "1.0.0", "modelspec.title": self.settings.output_name, "modelspec.implementation": "diffusers",
            "modelspec.prediction_type": {"v_prediction": "v"}.get(self.model.process.prediction, self.model.process.prediction),
            "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S"), **named, **resolution, **trigger,
        }  # fmt: skip
