"""Options of sd-scripts that mean nothing here, or whose meaning is not offered: accepted or refused with a sentence, never in silence."""

from __future__ import annotations

from .option import TrainingOption as Option


def _ignored(why: str, *names: str, type: type = bool) -> tuple[Option, ...]:
    return tuple(Option(name, "", type, nargs=None if type is bool else "?", ignored=f"--{name} {why}") for name in names)


def _refused(why: str, *names: str, type: type = bool, but: tuple[str, ...] = ()) -> tuple[Option, ...]:
    """``but``: the values that ask for nothing, beside 0 and an empty one."""
    nargs = None if type is bool else "*"
    return tuple(Option(name, "", type, nargs=nargs, refused=f"--{name} is not offered here: {why}", harmless=but) for name in names)


WITHOUT_MEANING = (
    *_ignored("is not needed: which model it is is read from the file", "v2", "sdxl"),
    *_ignored("is not needed: which model it is is read from the file", "model_type", type=str),
    *_ignored("is not needed: torch's own attention is used", "xformers", "sdpa", "mem_eff_attn"),
    *_ignored("has no effect: the cache is always on disk", "cache_latents_to_disk",
              "cache_text_encoder_outputs_to_disk", "skip_cache_check"),
    *_ignored("has no effect: images are read by the process itself", "persistent_data_loader_workers"),
    *_ignored("has no effect: images are read by the process itself", "max_data_loader_n_workers", type=str),
    *_ignored("has no effect: images and captions are encoded one by one", "vae_batch_size", "text_encoder_batch_size", type=str),
    *_ignored("has no effect: states are always kept", "save_state", "save_state_on_train_end"),
    *_ignored("has no effect: one state is kept, the last", "save_last_n_epochs_state", "save_last_n_steps_state", type=str),
    *_ignored("has no effect: files are read where they lie", "lowram", "highvram", "disable_mmap_load_safetensors", "mem_eff_load"),
    *_ignored("has no effect: gradients are summed by accelerate", "ddp_gradient_as_bucket_view", "ddp_static_graph"),
    *_ignored("has no effect: gradients are summed by accelerate", "ddp_timeout", type=str),
    *_ignored("has no effect: the VAE always computes in float32", "no_half_vae"),
    *_ignored("has no effect: tokenizers come from the usual cache", "tokenizer_cache_dir", type=str),
    *_ignored("has no effect: TensorBoard is what --logging_dir is for", "log_with", "log_prefix", "log_tracker_name", type=str),
    *_ignored("has no effect: nothing is printed that it would change", "console_log_simple", "log_config"),
    *_ignored("has no effect: nothing is printed that it would change", "console_log_level", "console_log_file", type=str),
    *_ignored("has no effect: the header is where it is looked for", "cache_info"),
    *_ignored("has no effect: files are always safetensors", "save_model_as", type=str),
    *_ignored("has no effect: files are always safetensors", "use_safetensors"),
    *_ignored("has no effect: nothing is sent to a server", "async_upload"),
    *_ignored("has no effect: nothing is sent to a server", "huggingface_path_in_repo", "huggingface_repo_type",
              "huggingface_repo_visibility", type=str),
    *_ignored("has no effect without --torch_compile", "dynamo_backend", type=str),
    *_ignored("has no effect without --weighting_scheme", "logit_mean", "logit_std", "mode_scale", type=str),
    *_ignored("has no effect without --token_warmup_step", "token_warmup_min", type=str),
    *_ignored("has no effect without --deepspeed", "zero_stage", "offload_optimizer_device", "offload_optimizer_nvme_path",
              "offload_param_device", "offload_param_nvme_path", type=str),
    *_ignored("has no effect without --deepspeed", "zero3_init_flag", "zero3_save_16bit_model", "fp16_master_weights_and_gradients"),
    # what kohya_ss, the page over sd-scripts, writes for itself into the configurations that it makes
    *_ignored("has no effect, as in sd-scripts: --max_train_epochs is obeyed", "epoch", type=str),
    *_ignored("has no effect, as in sd-scripts: --noise_offset and --multires_noise_iterations are obeyed", "noise_offset_type", type=str),
    *_refused("the text encoders and the VAE are those of the diffusers folder that --pretrained_model_name_or_path names",
              "clip_l", "t5xxl", "ae", type=str),
    *_refused("diffusers' model takes no mask of the text", "apply_t5_attn_mask"),
    *_refused("use --gradient_checkpointing, or --network_args preset= for fewer layers", "split_mode"),
    *_refused("the base model stays on one device; use --gradient_checkpointing", "blocks_to_swap", type=str),
    *_refused("use --timestep_sampling", "weighting_scheme", type=str, but=("none", "uniform")),
    *_refused("colours are part of what is learned; change the images instead", "color_aug"),
    *_refused("cut the images instead", "face_crop_aug_range", type=str),
    *_refused("use --alpha_mask, or images with an alpha channel", "conditioning_data_dir", type=str),
    *_refused("nothing is sent to a server", "huggingface_repo_id", "huggingface_token", "wandb_api_key", "wandb_run_name",
              "log_tracker_config", type=str),
    *_refused("nothing is sent to a server", "save_state_to_huggingface", "resume_from_huggingface"),
    *_refused("use --mixed_precision; weights that are trained stay in float32", "full_fp16", "full_bf16"),
    *_refused("the base model is used in the precision of --mixed_precision", "fp8_base", "fp8_base_unet"),
    *_refused("start it with `accelerate launch` for several processes", "deepspeed"),
    *_refused("what compiling gains is lost on many shapes of images", "torch_compile"),
    *_refused("merge the network into the checkpoint first with `merge`", "base_weights", "base_weights_multiplier", type=str),
    *_refused("begin with --resume, which finds the place itself", "initial_epoch", "initial_step", "skip_until_initial_step", type=str),
    *_refused("write (word:1.2) for images only", "weighted_captions"),
    *_refused("it depends on how far the run is and cannot be compared", "token_warmup_step", type=str),
    *_refused("use --optimizer_type AdamW8bit", "use_8bit_adam"),
    *_refused("use one of the optimisers of --optimizer_type", "use_lion_optimizer"),
    *_refused("use one of the schedules of --lr_scheduler", "lr_scheduler_type", "lr_scheduler_args", "lr_decay_steps",
              "lr_scheduler_timescale", "lr_scheduler_min_lr_ratio", type=str),
    *_refused("it works for one optimiser step a parameter only, without clipping", "fused_backward_pass"),
    *_refused("use --min_snr_gamma or --debiased_estimation_loss", "v_pred_like_loss", type=str),
    *_refused("use --noise_offset without it", "noise_offset_random_strength", "ip_noise_gamma_random_strength"),
    *_refused("use --save_every_n_epochs", "save_n_epoch_ratio", type=str),
    *_refused("use --gradient_checkpointing", "cpu_offload_checkpointing"),
    *_refused("nothing of a user's is run as code", "dataset_class", type=str),
    *_refused("`--dry_run` says what the images come to", "debug_dataset"),
    *_refused("the settings are in every file's metadata, for --again", "output_config"),
    *_refused("resizing is Lanczos", "resize_interpolation", type=str),
    *_refused("use --validate_every_n_steps", "validate_every_n_epochs", type=str),
)  # fmt: skip
