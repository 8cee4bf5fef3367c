"""Every option of a training: command line, page and documentation are built from this list. Names and meanings are those of sd-scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .data_options import DATA
from .kohya_options import WITHOUT_MEANING
from .network_options import NETWORK
from .option import FLUX, OWN, PAPER, section
from .option import TrainingOption as Option

OPTIMISERS = (
    "AdamW", "AdamW8bit", "PagedAdamW8bit", "Prodigy", "AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree", "AdaFactor",
    "SGDNesterov",
)  # fmt: skip
SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")
PRECISIONS = ("no", "fp16", "bf16")
SAMPLINGS = ("sigma", "uniform", "sigmoid", "shift", "flux_shift")
SAVED_IN = ("float", "fp16", "bf16")

OURS: dict[str, Any] = {"source": OWN, "runtime": True}

MODEL = section(
    "Model",
    Option(
        "pretrained_model_name_or_path", "the base model: a checkpoint (.safetensors) or a diffusers folder; without it the demo model",
        Path, aliases=("--ckpt",), kind="checkpoint",
    ),
    Option("vae", "another VAE: a diffusers folder", Path, kind="folder"),
    Option(
        "transformer", "other weights of a Flux.1's or Z-Image's transformer: a .safetensors file with original names or diffusers'", Path,
        kind="checkpoint", source=OWN,
    ),
    Option("v_parameterization", "the model predicts the velocity (default: what its file says)", bool),
    Option("clip_skip", "read the text off this layer from the last on (default: what the model was made with)", int),
    Option("max_token_length", "tokens of a caption: 75, 150 or 225", int, 75, choices=(75, 150, 225)),
    Option(
        "t5xxl_max_token_length", "tokens of a caption for T5 or a language model (default: what the model was made with)", int, source=FLUX
    ),
    Option("guidance_scale", "the guidance that Flux.1 dev is told while it trains", float, 1.0, source=FLUX),
    Option("device", "where to train: cpu, cuda, cuda:1, mps (default: a GPU if there is one)", **OURS),
)  # fmt: skip

OPTIMISATION = section(
    "Optimisation",
    Option("max_train_steps", "how many steps", int, 1600, aliases=("--steps",)),
    Option("max_train_epochs", "how many times all images are seen; wins over the steps", int),
    Option("train_batch_size", "images a step (of each process)", int, 1, aliases=("--batch_size",)),
    Option("gradient_accumulation_steps", "batches whose gradients make one step", int, 1),
    Option("learning_rate", "the learning rate where no other is given", float, 1e-4),
    Option("unet_lr", "the learning rate of the UNet or transformer", float),
    Option("text_encoder_lr", "the learning rate of the text encoders, or one for each", float, nargs="+"),
    Option("optimizer_type", "the optimiser", default="AdamW", choices=OPTIMISERS),
    Option("optimizer_args", "its arguments as name=value, such as weight_decay=0.01 betas=0.9,0.99", nargs="+"),
    Option("lr_scheduler", "how the rate goes on", default="constant", choices=SCHEDULES),
    Option("lr_warmup_steps", "steps in which the rate rises; below 1 a share of all", float, 0.0),
    Option("lr_scheduler_num_cycles", "restarts of cosine_with_restarts", int, 1),
    Option("lr_scheduler_power", "power of the polynomial", float, 1.0),
    Option("max_grad_norm", "longer gradients are cut to this norm; 0: never", float, 1.0),
    Option("scale_weight_norms", "modules whose change has a larger norm are scaled down to it", float),
    Option("ema_decay", "save a moving average of the weights with this decay, such as 0.999", float, source=f"{PAPER}2312.02696"),
    Option("seed", "the same seed gives the same network (default: a random one, which the file names)", int),
    Option("mixed_precision", "what the model computes in", default="no", choices=PRECISIONS),
    Option("gradient_checkpointing", "compute activations twice instead of keeping them: half the memory, a third more time", bool),
)  # fmt: skip

LOSS = section(
    "Noise and loss",
    Option("min_snr_gamma", "weigh steps by min(SNR, gamma) / SNR; 5 is usual", float, source=f"{PAPER}2303.09556"),
    Option("debiased_estimation_loss", "weigh steps by 1 / sqrt(SNR)", bool, source=f"{PAPER}2310.08442"),
    Option("scale_v_pred_loss_like_noise_pred", "weigh a velocity's loss as if it were a noise's", bool),
    Option("noise_offset", "shift each image's noise by this times a random number a channel; 0.05 to 0.1", float),
    Option("adaptive_noise_scale", "add this times the latent's mean to the offset", float),
    Option("multires_noise_iterations", "pyramid noise of so many sizes; 6 to 10", int),
    Option("multires_noise_discount", "what each size of the pyramid counts of the one before", float, 0.3),
    Option("ip_noise_gamma", "disturb what the model sees by this much more noise", float, source=f"{PAPER}2301.11706"),
    Option("zero_terminal_snr", "let the last step be pure noise", bool, source=f"{PAPER}2305.08891"),
    Option("min_timestep", "train on steps from this one on", int, 0),
    Option("max_timestep", "train on steps before this one", int, 1000),
    Option("timestep_sampling", "which steps a flow is trained on (default: what the model was made with)", choices=SAMPLINGS, source=FLUX),
    Option("sigmoid_scale", "how wide sigmoid, shift and flux_shift spread", float, 1.0, source=FLUX),
    Option("discrete_flow_shift", "how far shift and sigma lean towards the noise (default: the model's)", float, source=FLUX),
    Option("model_prediction_type", "what the transformer's answer is", default="raw", choices=("raw",), source=FLUX),
    Option("loss_type", "the loss", default="l2", choices=("l2", "l1", "huber", "smooth_l1")),
    Option("huber_schedule", "how huber's c depends on the step", default="snr", choices=("constant", "exponential", "snr")),
    Option("huber_c", "huber's c at the noisiest step", float, 0.1),
    Option("huber_scale", "huber's c is multiplied by this", float, 1.0),
    Option("prior_loss_weight", "what a regularisation image counts", float, 1.0),
    Option("masked_loss", "count only what the images' alpha channel shows (as alpha_mask of a dataset does)", bool),
)  # fmt: skip

SAMPLES = section(
    "Images while training",
    Option("sample_prompts", "a text file, a prompt a line: --n negative --w --h --d seed --l guidance --s steps", Path, kind="file"),
    Option("sample_every_n_steps", "make images every so many steps", int),
    Option("sample_every_n_epochs", "make images every so many epochs", int),
    Option("sample_at_first", "make images before the first step too", bool),
    Option("sample_sampler", "the sampler", default="ddim", choices=("ddim", "euler", "k_euler", "euler_a", "k_euler_a", "dpmsolver++")),
)  # fmt: skip

SAVING = section(
    "Files",
    Option("output_name", "the network's name, and its file's", required=True),
    Option("output_dir", "the folder for the network (default: where the app looks for its own)", Path, kind="folder"),
    Option("save_precision", "dtype of the file", default="fp16", choices=SAVED_IN),
    Option("save_every_n_steps", "write the network every so many steps too", int),
    Option("save_every_n_epochs", "write the network every so many epochs too", int),
    Option("save_last_n_steps", "of the files between, keep those of the last so many steps", int),
    Option("save_last_n_epochs", "of the files of every so many epochs, keep the last so many", int),
    Option("keep_last", "of the files between, keep the last so many", int, source=OWN),
    Option("training_comment", "a sentence for the file's metadata"),
    Option("metadata_title", "the title (default: the name)"),
    Option("metadata_author", "who made it"),
    Option("metadata_description", "what it does"),
    Option("metadata_license", "under which licence"),
    Option("metadata_tags", "tags, with commas"),
    Option("no_metadata", "write no metadata on the training", bool),
)  # fmt: skip

RUN = section(
    "Run",
    Option("config_file", "options from a TOML file, as of sd-scripts; what is given beside it wins", Path, kind="file", runtime=True),
    Option("again", "train as this network file was trained; what is given beside it wins", Path, kind="network", **OURS),
    Option("resume", "go on where the run of this name was stopped or killed, to the same bits", bool, **OURS),
    Option("overwrite", "begin anew where there is a run of this name", bool, **OURS),
    Option("dry_run", "two real steps of the largest bucket, then memory, time and size; nothing is written", bool, **OURS),
    Option("state_every_n_steps", "keep the run's state every so many steps, for a crash", int, 100, **OURS),
    Option("cache_dir", "where latents and texts are kept, by their content", Path, kind="folder", **OURS),
    Option("self_check", "read each file that is written and compare what it does with the training", bool, True, **OURS),
    Option("guard", "go back to the last good state when the loss is no number any more", bool, True, **OURS),
    Option("spectra_every_n_steps", "measure norms and effective ranks every so many steps too", int, 0, **OURS),
    Option("logging_dir", "write loss and rates for TensorBoard into this folder", Path, kind="folder", runtime=True),
)  # fmt: skip

OPTIONS: tuple[Option, ...] = (*MODEL, *DATA, *NETWORK, *OPTIMISATION, *LOSS, *SAMPLES, *SAVING, *RUN, *WITHOUT_MEANING)
BY_NAME = {option.name: option for option in OPTIONS}
