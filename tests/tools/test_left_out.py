"""What a tool leaves out of a network it names, key and reason, in its plan and its result, and then it does not claim to be whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lycoris import inspect
from lib_lycoris.demo import CHECKPOINT
from lib_lycoris.tools.examine.inspect_text import as_text
from lib_lycoris.tools.files.networks.left_out import SHOWN, left_out
from lib_lycoris.tools.registry import load_tools

TOOLS = load_tools()
Tensors = dict[str, Tensor]
PLACE = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_"
BAD, GOOD = f"{PLACE}to_q", f"{PLACE}to_k"


def pair(module: str, inputs: int = 32, rank: int = 2) -> Tensors:
    g = torch.Generator().manual_seed(len(module))
    down, up = torch.randn(rank, inputs, generator=g), torch.randn(32, rank, generator=g)
    return {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up, f"{module}.alpha": torch.tensor(1.0)}


# what is wrong with the one module -> its tensors, a key that the text names, words of the reason
DAMAGED: dict[str, tuple[Callable[[], Tensors], str, str]] = {
    "unknown key": (lambda: {**pair(BAD), f"{BAD}.banana": torch.ones(3)}, f"{BAD}.banana", "no known algorithm has a tensor"),
    "no partner": (lambda: {f"{BAD}.lora_down.weight": torch.ones(2, 32)}, f"{BAD}.lora_down.weight", "no known algorithm stores exactly"),
    "rank 0": (lambda: pair(BAD, rank=0), f"{BAD}.alpha", "is empty"),
    "another width": (lambda: pair(BAD, inputs=33), f"{BAD}.alpha", "is this file for another model?"),
    "another half": (lambda: {**pair(BAD), f"{BAD}.hada_w1_a": torch.ones(32, 2)}, f"{BAD}.alpha", "hada_w1_a: not used by the algorithm"),
}
ASKED: dict[str, dict[str, Any]] = {
    "networks_merge": {"base_model": CHECKPOINT}, "convert": {"base_model": CHECKPOINT, "style": "diffusers"},
    "resize": {"base_model": CHECKPOINT, "new_rank": 1}, "slim": {"base_model": CHECKPOINT, "new_rank": 1},
    "bake": {"sd_model": CHECKPOINT}, "merge": {"sd_model": CHECKPOINT},
}  # fmt: skip
WHOLE = ("nothing is lost", "exactly their sum")


@pytest.mark.parametrize("damage", sorted(DAMAGED))
@pytest.mark.parametrize("name", sorted(ASKED))
def test_a_tool_names_what_it_leaves_out_and_why(tmp_path: Path, name: str, damage: str) -> None:
    made, key, reason = DAMAGED[damage]
    path = tmp_path / "odd.safetensors"
    save_file({**made(), **pair(GOOD)}, path)
    one = {"models": [path]} if name in ("merge", "networks_merge") else {"model": path}
    options = {**ASKED[name], **one, "save_to": tmp_path / "out.safetensors"}
    for text in (TOOLS[name].plan(**options).text, TOOLS[name].run(**options).text):
        assert key in text and reason in text
        assert not any(claim in text for claim in WHOLE)


@pytest.mark.parametrize("damage", sorted(DAMAGED))
def test_inspect_names_it_without_a_base_model(tmp_path: Path, damage: str) -> None:
    made, key, reason = DAMAGED[damage]
    save_file({**made(), **pair(GOOD)}, tmp_path / "odd.safetensors")
    found = inspect(tmp_path / "odd.safetensors")
    if damage == "another width":  # the file's own layers are all that it is compared with
        assert not found.problems
    else:
        assert any(key in problem and reason in problem for problem in found.problems) and reason in as_text(found)


@pytest.mark.parametrize("name", ["convert", "networks_merge"])
def test_a_whole_network_is_said_to_be_whole(tmp_path: Path, name: str) -> None:
    save_file({**pair(BAD), **pair(GOOD)}, tmp_path / "whole.safetensors")
    one = {"models": [tmp_path / "whole.safetensors"]} if name == "networks_merge" else {"model": tmp_path / "whole.safetensors"}
    text = TOOLS[name].run(**ASKED[name], **one, save_to=tmp_path / "out.safetensors").text
    assert any(claim in text for claim in WHOLE) and "left out" not in text


def test_reasons_are_listed_once_and_cut_with_their_number() -> None:
    assert left_out([]) == []
    assert left_out([("a.down", "why"), ("a.up", "why"), ("b", "other")]) == [
        "3 keys not used and left out:", "  a.down and 1 more: why", "  b: other",
    ]  # fmt: skip
    many = left_out([(f"k{number}", str(number)) for number in range(SHOWN + 5)])
    assert many[-1] == "  ... and 5 more reasons (the report lists all)" and len(many) == SHOWN + 2


@pytest.mark.parametrize("suffix", ["diff_b", "lora_B.bias", "base_layer.bias"])
def test_a_bias_for_a_layer_without_one_keeps_the_layer_out_of_a_checkpoint(tmp_path: Path, suffix: str) -> None:
    save_file({**pair(BAD), f"{BAD}.{suffix}": torch.ones(32), **pair(GOOD)}, tmp_path / "odd.safetensors")
    merged = TOOLS["merge"].run(sd_model=CHECKPOINT, models=[tmp_path / "odd.safetensors"], save_to=tmp_path / "out.safetensors")
    before, after = load_file(CHECKPOINT), load_file(merged.outputs[0])
    changed = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    assert {key.rsplit(".", 2)[1] for key in changed} == {"to_k"}
    assert "has no bias there, and a layer is never applied in part" in merged.text


def test_a_bias_that_would_only_be_turned_keeps_nothing_out(tmp_path: Path) -> None:
    tensors = {f"{BAD}.oft_blocks": torch.randn(8, 4, 4), f"{BAD}.alpha": torch.tensor(0.0)}
    save_file(tensors, tmp_path / "turned.safetensors", {"ss_network_args": '{"bypass_mode": "True"}'})
    merged = TOOLS["merge"].run(sd_model=CHECKPOINT, models=[tmp_path / "turned.safetensors"], save_to=tmp_path / "out.safetensors")
    assert "1 layer, all keys used" in merged.text
