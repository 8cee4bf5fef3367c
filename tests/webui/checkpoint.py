"""Make tiny random checkpoints, their configurations and a CLIP tokenizer folder for a real webui.

Run by the webui's own python, whose model classes and configuration files give the shapes and whose open_clip package
gives the BPE vocabulary: `PYTHON checkpoint.py --webui DIR --out FOLDER sd1 sd1:2 sdxl` (kind[:seed]).
A checkpoint is `FOLDER/checkpoints/<kind>-<seed>.safetensors`. Its configuration is `FOLDER/configs/<kind>.yaml`, one for
all seeds, so that a switch between two of a kind loads into the living model as with real files; the extension in
tiny_models points the webui to it. SD2's is beside the checkpoint, since the webui tells SD2 by its real sizes.
`FOLDER/clip` is SD1's tokenizer and text configuration, `FOLDER/hub` the same in the layout of the hub's cache.
Needs about 75 MB and a few seconds a checkpoint.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
WIDTH = 32  # model_channels; group norms have 32 groups, so not less
CONTEXT = 64  # hidden size of every tiny text encoder
State = dict[str, torch.Tensor]


def text_config() -> dict[str, Any]:
    """Return SD1's text encoder as a transformers configuration: its 12 layers, hidden size CONTEXT."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": "quick_gelu",
        "hidden_size": CONTEXT,
        "intermediate_size": 2 * CONTEXT,
        "projection_dim": CONTEXT,
        "num_attention_heads": 4,
        "num_hidden_layers": 12,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def write_clip_folder(folder: Path) -> None:
    """Write config.json, vocab.json and merges.txt as CLIPTokenizer and CLIPTextModel read them."""
    from open_clip import tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocab = {names.get(token, token): number for token, number in tokenizer.SimpleTokenizer().encoder.items()}
    with gzip.open(tokenizer.default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(text_config()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))


def hub_folder(hub: Path, repository: str) -> Path:
    """Return the snapshot folder of `repository` in a hub cache, made as the hub's client lays it out."""
    root = hub / ("models--" + repository.replace("/", "--"))
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text("0" * 40)
    snapshot = root / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    return snapshot


def write_t5_tokenizer(folder: Path) -> None:
    """Write a T5 tokenizer of single letters; SD3 opens one even when its T5 is off."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = [("\u2581", -1.0)] + [(chr(code), -2.0) for code in range(33, 127)]
    tokenizer = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"extra_ids": 0, "tokenizer_class": "T5Tokenizer"}))


def enter_webui(webui: Path, data: Path) -> None:
    """Put the webui's side repositories on sys.path and its absent, unused imports into sys.modules.

    Its own modules, imported for SD3, read the command line: they get an empty one with `data` as their data folder.
    """
    sys.argv[1:] = ["--data-dir", str(data)]
    for name in ("stable-diffusion-stability-ai", "generative-models"):
        sys.path.insert(0, str(webui / "repositories" / name))
    sys.path.insert(0, str(webui))
    for name, attribute in (("taming.modules.losses.lpips", "LPIPS"), ("sgm.data", "StableDataModuleFromConfig")):
        module = types.ModuleType(name)
        setattr(module, attribute, None)
        sys.modules[name] = module


def fill(module: torch.nn.Module) -> torch.nn.Module:
    """Replace the zeros that trainers start from by random values, so that every layer shows in the image."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.05)
            elif parameter.dim() > 1 and not parameter.any():
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
            if name.endswith("attn2.to_v.weight"):
                parameter.mul_(4.0)  # else the prompt hardly shows
    return module


def state_of(prefix: str, module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a filled module's tensors under `prefix`, without those that released checkpoints do not have."""
    for name, tensor in fill(module).state_dict().items():
        if not name.endswith(("position_ids", "attn_mask")) and not name.startswith("visual."):
            yield prefix + name, tensor.detach().clone().contiguous()


def schedule() -> State:
    """Return the buffers of the noise schedule that SD1 and SD2 files carry."""
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1.0 - betas, dim=0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    values = {
        "betas": betas,
        "alphas_cumprod": kept,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": kept.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - kept).sqrt(),
    }
    return {name: value.float() for name, value in values.items()}


def clip_text() -> torch.nn.Module:
    """Return a random CLIP-L text model whose last norm has a mean away from zero, as the webui divides by it."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**text_config()))


def lift_final_norm(state: State) -> State:
    """Add 0.3 to the bias of every text encoder's last norm; the webui rescales its result by a mean."""
    for name in state:
        if name.endswith(("final_layer_norm.bias", "ln_final.bias")):
            state[name] = state[name] + 0.3
    return state


def open_clip_text(arch: str) -> torch.nn.Module:
    """Return the random open_clip model named by a file of tiny_models/open_clip."""
    import open_clip

    open_clip.add_model_config(HERE / "tiny_models" / "open_clip")
    return open_clip.create_model(arch)


def build(config: Any) -> torch.nn.Module:
    """Instantiate one target/params node of a configuration file."""
    from ldm.util import instantiate_from_config

    return instantiate_from_config(config)


def shrink_ldm(config: Any, clip: str, arch: str | None) -> Any:
    """Make the sizes of an SD1/SD2 configuration tiny and name the local text encoder."""
    unet = config.model.params.unet_config.params
    unet.model_channels, unet.context_dim = WIDTH, CONTEXT
    unet.use_checkpoint, unet.use_fp16 = False, False
    if "num_head_channels" in unet:
        unet.num_head_channels = WIDTH // 2
    config.model.params.first_stage_config.params.ddconfig.ch = WIDTH
    text = config.model.params.cond_stage_config
    if arch:
        text.params.arch = arch
    else:
        text.params = {"version": clip}
    return config


def ldm_state(config: Any, arch: str | None) -> State:
    """Return the random state of an SD1/SD2 checkpoint."""
    params = config.model.params
    state = schedule()
    state.update(state_of("model.diffusion_model.", build(params.unet_config)))
    state.update(state_of("first_stage_model.", build(params.first_stage_config)))
    if arch:
        state.update(state_of("cond_stage_model.model.", open_clip_text(arch)))
    else:
        state.update(state_of("cond_stage_model.transformer.", clip_text()))
    return state


def shrink_sgm(config: Any, clip: str) -> Any:
    """Make the sizes of an SDXL configuration (base or refiner) tiny."""
    params = config.model.params
    embedders = params.conditioner_config.params.emb_models
    towers = [e for e in embedders if "CLIP" in e.target]
    for embedder in embedders:
        if "Timestep" in embedder.target:
            embedder.params.outdim = WIDTH
        elif "OpenCLIP" in embedder.target:
            embedder.params.arch = "tiny-vit-bigg"
        else:
            embedder.params.version = clip
    numbers = sum(1 if e.input_key == "aesthetic_score" else 2 for e in embedders if "Timestep" in e.target)
    unet = params.network_config.params
    width = CONTEXT * len(towers)
    unet.context_dim = [width] * len(unet.context_dim) if len(towers) == 1 else width
    unet.model_channels, unet.num_head_channels, unet.use_checkpoint = WIDTH, WIDTH // 2, False
    unet.adm_in_channels, unet.spatial_transformer_attn_type = CONTEXT + numbers * WIDTH, "softmax"
    params.first_stage_config.params.ddconfig.ch = WIDTH
    params.first_stage_config.params.ddconfig.attn_type = "vanilla"
    return config


def sgm_state(config: Any) -> State:
    """Return the random state of an SDXL checkpoint (base or refiner)."""
    params = config.model.params
    state = dict(state_of("model.diffusion_model.", build(params.network_config)))
    first_stage = dict(params.first_stage_config, target="ldm.models.autoencoder.AutoencoderKL")
    state.update(state_of("first_stage_model.", build(first_stage)))
    for index, embedder in enumerate(params.conditioner_config.params.emb_models):
        prefix = f"conditioner.embedders.{index}."
        if "OpenCLIP" in embedder.target:
            state.update(state_of(prefix + "model.", open_clip_text(embedder.params.arch)))
        elif "CLIP" in embedder.target:
            state.update(state_of(prefix + "transformer.", clip_text()))
    return state


def sd3_state(depth: int = 2) -> State:
    """Return the random state of an SD3 checkpoint of `depth` joint blocks (hidden size 64 * depth), text encoders in it."""
    from modules import initialize

    initialize.imports()  # the order of imports that its circular ones need
    from modules.models.sd3 import other_impls
    from modules.models.sd3.mmdit import MMDiT
    from modules.models.sd3.sd3_impls import SDVAE

    linear = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 64 * depth}}
    model = MMDiT(
        input_size=None,
        pos_embed_max_size=32,
        patch_size=2,
        in_channels=16,
        depth=depth,
        num_patches=1024,
        adm_in_channels=2 * CONTEXT,
        context_embedder_config=linear,
    )
    state = dict(state_of("model.diffusion_model.", model))
    state["model.diffusion_model.pos_embed"].normal_(0.0, 0.5)
    state.update(state_of("first_stage_model.", SDVAE()))
    sizes = json.loads((HERE / "tiny_models" / "sd3_text_encoders.json").read_text())
    for name, constant, act in (("clip_l", "CLIPL_CONFIG", "quick_gelu"), ("clip_g", "CLIPG_CONFIG", "gelu")):
        with torch.no_grad():
            encoder = other_impls.CLIPTextModel({**sizes[constant], "hidden_act": act}, torch.float32, "cpu")
        state.update(state_of(f"text_encoders.{name}.transformer.", encoder))
    return state


LDM = "repositories/stable-diffusion-stability-ai/configs/stable-diffusion/"
SGM = "repositories/generative-models/configs/inference/"
KINDS: dict[str, tuple[str, str | None]] = {  # configuration file below the webui, open_clip name of an SD2 text encoder
    "sd1": ("configs/v1-inference.yaml", None),
    "inpaint": ("configs/v1-inpainting-inference.yaml", None),
    "sd2": (LDM + "v2-inference.yaml", "tiny-vit-h"),
    "sdxl": (SGM + "sd_xl_base.yaml", None),
    "refiner": (SGM + "sd_xl_refiner.yaml", None),
    "sd3": ("configs/sd3-inference.yaml", None),
}


def make_checkpoint(kind: str, seed: int, webui: Path, out: Path) -> Path:
    """Write `<out>/checkpoints/<kind>-<seed>.safetensors` and its yaml; the same seed gives the same bytes."""
    from omegaconf import OmegaConf

    torch.manual_seed(seed)
    path, arch = KINDS[kind]
    config = OmegaConf.load(webui / path)
    if kind == "sd3":
        state = sd3_state()
    elif kind in ("sdxl", "refiner"):
        state = sgm_state(shrink_sgm(config, str(out / "clip")))
    else:
        state = ldm_state(shrink_ldm(config, str(out / "clip"), arch), arch)
    file = out / "checkpoints" / f"{kind}-{seed}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(lift_final_norm(state), file, metadata={"modelspec.title": f"tiny random {kind}, seed {seed}"})
    yaml = file.with_suffix(".yaml") if kind == "sd2" else out / "configs" / f"{kind}.yaml"
    yaml.parent.mkdir(exist_ok=True)
    OmegaConf.save(config, yaml)
    return file


def main() -> None:
    """Make the checkpoints named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--webui", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("kinds", nargs="+", help="kind or kind:seed; " + ", ".join(KINDS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    enter_webui(arguments.webui, arguments.out / "data")
    write_clip_folder(arguments.out / "clip")
    write_clip_folder(hub_folder(arguments.out / "hub", "openai/clip-vit-large-patch14"))
    write_t5_tokenizer(hub_folder(arguments.out / "hub", "google/t5-v1_1-xxl"))
    for text in arguments.kinds:
        kind, _, seed = text.partition(":")
        print(make_checkpoint(kind, int(seed or 1), arguments.webui, arguments.out), flush=True)


if __name__ == "__main__":
    main()
