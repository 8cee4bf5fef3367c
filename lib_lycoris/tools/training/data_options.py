"""The options that say which images are trained on, and what is done with them and their captions."""

from __future__ import annotations

from pathlib import Path

from .option import DATASETS, OWN, section
from .option import TrainingOption as Option

DATA = (
    *section(
        "Images",
        Option("train_data_dir", "a folder of images, or of folders named N_word whose images count N times", Path, kind="folder"),
        Option("reg_data_dir", "the same of regularisation images", Path, kind="folder"),
        Option("dataset_config", "datasets in a TOML file, as sd-scripts reads it", Path, kind="file", source=DATASETS),
        Option("in_json", "captions in one JSON file, as sd-scripts' fine-tuning has them", Path, kind="file", source=DATASETS),
        Option("dataset_repeats", "how often each image counts with --in_json or without N_ folders", int, 1, source=DATASETS),
        Option("resolution", "pixels: 512 or 512,768 (default: what suits the model)"),
        Option("enable_bucket", "keep the images' shapes: batches of images of about one shape", bool, True),
        Option("min_bucket_reso", "shortest side of a bucket (default: 256, or half the resolution if that is less)", int),
        Option("max_bucket_reso", "longest side of a bucket", int, 1024),
        Option("bucket_reso_steps", "sides of buckets are multiples of this", int, 64),
        Option("bucket_no_upscale", "never enlarge an image", bool),
        Option("flip_aug", "train on mirrored images too", bool),
        Option("random_crop", "cut at a random place instead of the middle", bool),
        Option("alpha_mask", "count only what the images' alpha channel shows", bool, source=DATASETS),
        Option("validation_split", "leave out this share of the images, to measure the loss on", float, 0.0, source=DATASETS),
        Option("validate_every_n_steps", "measure that loss every so many steps (default: every epoch)", int),
        Option("max_validation_steps", "use so many batches of it", int),
        Option("validation_seed", "the seed of that choice (default: the seed)", int),
        Option("cache_latents", "compute each image's latent once and keep it", bool, True),
        Option("cache_text_encoder_outputs", "compute each caption's text once where the text encoders are not trained", bool, True),
    ),
    *section(
        "Captions",
        Option("trigger_word", "a word put before every caption, to call the network by", source=OWN),
        Option("caption_extension", "ending of the captions' files (default: .txt, then .caption)", aliases=("--caption_extention",)),
        Option("caption_separator", "what stands between tags", default=","),
        Option("shuffle_caption", "put the tags in another order each time", bool),
        Option("keep_tokens", "the first so many tags stay where they are", int, 0),
        Option("keep_tokens_separator", "or what stands before this mark"),
        Option("secondary_separator", "tags joined by this are one until the end", source=DATASETS),
        Option("enable_wildcard", "{a|b} in a caption is one of them; of several lines one is taken", bool, source=DATASETS),
        Option("caption_prefix", "put before every caption", source=DATASETS),
        Option("caption_suffix", "put behind every caption", source=DATASETS),
        Option("caption_dropout_rate", "share of captions left empty", float, 0.0),
        Option("caption_dropout_every_n_epochs", "each so many epochs all captions are empty", int, 0),
        Option("caption_tag_dropout_rate", "share of tags left out", float, 0.0),
    ),
)
