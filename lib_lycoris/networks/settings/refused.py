"""Methods that are known and not read: a part of a key, or a word in PEFT's config, and the sentence that says why.

What changes with every input, or was made of numbers that the file does not hold, no change of a weight can say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...algorithms import Config
from ...errors import readable

SEED = "the places or matrices that it trains are drawn from a seed of the configuration, they are not in the file"
ROUTED = "what it does depends on the input, which no change of a weight can say"
PROMPT = "it trains tokens or states that are put before the input, not weights"

# method as its users write it -> (part of a key that nothing else has, PEFT's peft_type, why)
METHODS: dict[str, tuple[str, str, str]] = {
    "FourierFT": (".fourierft_", "FOURIERFT", SEED),
    "WaveFT": (".waveft_", "WAVEFT", SEED),
    "RandLoRA": (".randlora_", "RANDLORA", "it is a sum over full-size random bases, which is not read"),
    "OSF": (".osf_", "OSF", "it splits the base weight by a rule of its own, which is not read"),
    "PSOFT": (".psoft_", "PSOFT", "it turns a part of the base weight's own decomposition, which is not read"),
    "Lily": (".lily_", "LILY", f"a router mixes its experts: {ROUTED}"),
    "PEANUT": (".peanut_", "PEANUT", f"it is not linear: {ROUTED}"),
    "pVeRA": (".pvera_", "PVERA", f"it draws random numbers at every step: {ROUTED}"),
    "X-LoRA": ("xlora_", "XLORA", f"a classifier mixes several adapters: {ROUTED}"),
    "Poly": (".poly_", "POLY", f"a router mixes several adapters: {ROUTED}"),
    "HydraLoRA": (".lora_route", "HYDRALORA", f"a router mixes several heads: {ROUTED}"),
    "TinyLoRA": (".tinylora_", "TINYLORA", SEED),
    "UniLoRA": (".unilora_", "UNILORA", f"one vector serves all layers, and {SEED}"),
    "FRoD": (".frod_", "FROD", "it shares a decomposition of all base weights, which is not read"),
    "VB-LoRA": (".vblora_", "VBLORA", "its factors are mixed from a bank of vectors, which is not read"),
    "AdaMSS": (".adamss_", "ADAMSS", "it trains in clusters of the base weight's own subspaces, which is not read"),
    "Shadow": (".shadow_", "SHADOW", f"it is a second network beside the model: {ROUTED}"),
    "LLaMA-Adapter": (".adaption_", "ADAPTION_PROMPT", PROMPT),
    "trainable tokens": (".trainable_tokens_", "TRAINABLE_TOKENS", "it replaces embeddings of words; use an embedding file"),
    "prompt tuning": (".prompt_embeddings", "PROMPT_TUNING", PROMPT),
    "prefix tuning": (".prefix_encoder.", "PREFIX_TUNING", PROMPT),
    "P-tuning": (".prompt_encoder.", "P_TUNING", PROMPT),
    "multitask prompt tuning": (".prefix_task_", "MULTITASK_PROMPT_TUNING", PROMPT),
    "CPT": (".cpt_", "CPT", PROMPT),
    "Cartridge": (".cartridge_", "CARTRIDGE", PROMPT),
}  # fmt: skip
# how a LoRA began (PEFT's init_lora_weights) -> why its factors alone are another change than the one that was trained
INITS: dict[str, str] = {
    "pissa_niter": "PiSSA (pissa_niter) took an approximation with random numbers in it out of the base weight, which cannot be repeated",
    "corda": "CorDA took a part out of the base weight that was found with training data, which the file does not hold",
    "loftq": "LoftQ quantised the base weight and the factors make up for what that lost; the base weight here is another one",
    "lora_ga": "LoRA-GA took a part out of the base weight that was found with training data, which the file does not hold",
}
# settings of a LoRA whose forward is no change of a weight, or another one than the factors alone
VARIANTS: dict[str, str] = {
    "alora_invocation_tokens": "aLoRA acts behind certain words of the prompt only",
    "arrow_config": f"Arrow mixes several LoRAs by the input: {ROUTED}",
    "use_bdlora": "BD-LoRA's factors are blocks of a larger matrix, which is not read",
    "use_qalora": "QALoRA acts on sums over groups of inputs, which is not read",
    "kasa_config": "KaSA takes the smallest part of the base weight out of it, which is not read",
    "monteclora_config": f"MonteCLoRA draws random numbers: {ROUTED}",
    "layer_replication": "layer replication builds a model of more layers than this one",
    "target_parameters": "target_parameters changes parameters of experts, which is not read",
}
# what a LoRA may begin with that leaves the base weight alone, or is an algorithm here: pissa, olora
KNOWN_INITS = ("", "gaussian", "eva", "orthogonal", "mica", "pissa", "olora")
KNOWN_SWITCHES = ("use_rslora", "use_dora", "use_effective_conv2d")
SAVED_AS_LORA = "save it as a plain LoRA where it was trained (PEFT: path_initial_model_for_weight_conversion)"


def refusal(keys: Iterable[str], configs: Mapping[str, Mapping[str, Any]], arguments: Mapping[str, str]) -> str | None:
    """Say why a file of a known method is not read, in words that follow its name; None for every other file.

    configs: component -> PEFT's config; arguments: kohya's ss_network_args.
    """
    for values in configs.values():
        if reason := _by_config(Config(values)):
            return reason
    names = "".join(f"\n.{key}" for key in keys)  # searched as one text: a file has thousands of keys, and no part has a line break
    for method, (part, _, why) in METHODS.items():
        if part in names:
            return f"is {method}, which is not read: {why}"
    return _by_arguments(arguments) if ".q_layer.weight" in names else None


def _by_arguments(arguments: Mapping[str, str]) -> str | None:
    """Say why a T-LoRA is not read that training began with another part of the base weight than the principal one."""
    part = arguments.get("sig_type", "principal")
    if part != "principal":
        return (
            f"is a T-LoRA that began with other singular vectors than the principal ones (sig_type={readable(part, 40)}), which is not read"
        )
    if arguments.get("use_data_init", "true").lower() in ("false", "0"):
        return "is a T-LoRA that began with random numbers (use_data_init=False), which the file does not hold"
    return None


def _by_config(config: Config) -> str | None:
    kind = config.text("peft_type").upper()
    for method, (_, name, why) in METHODS.items():
        if kind == name:
            return f"is {method}, which is not read: {why}"
    if kind not in ("", "LORA"):
        return None
    init = config.text("init_lora_weights").lower().replace("-", "_")
    for start, why in INITS.items():
        if init.startswith(start):
            return f"is not applied: {why}; {SAVED_AS_LORA}"
    if reason := next((f"is not applied: {why}" for key, why in VARIANTS.items() if config.says(key)), None):
        return reason
    if init not in KNOWN_INITS:
        return f"is not applied: init_lora_weights={readable(init, 40)} is not known here, and may have changed the base weight"
    unknown = next((key for key in config.switched_on("use_") if key not in KNOWN_SWITCHES), None)
    return f"is not applied: {readable(unknown, 40)} in its config is a variant of LoRA that is not known here" if unknown else None
