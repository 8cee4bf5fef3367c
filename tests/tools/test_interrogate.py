"""The words that a network reacts to most, on the demo's networks, which were trained on known ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lycoris import load
from lib_lycoris.cli import main
from lib_lycoris.demo import CHECKPOINT, NETWORKS
from lib_lycoris.errors import ToolError
from lib_lycoris.hosts.embedded.tokenizer import demo_tokenizer
from lib_lycoris.models.demo_words import WORDS
from lib_lycoris.patching import Activation, Patcher
from lib_lycoris.tools.examine import interrogate
from lib_lycoris.tools.examine.clip import Weights, encoders, hidden_states, normed
from lib_lycoris.tools.extract.difference import Reader
from lib_lycoris.tools.files.checkpoints.checkpoint import open_checkpoint
from lib_lycoris.tools.files.checkpoints.vocabulary import vocabulary
from lib_lycoris.tools.files.networks.network_file import patches

TEXT = "lora_te_text_model_encoder_layers_0_self_attn_v_proj"


def only(path: Path, word: str, layer: str, kind: str = "lora") -> Path:
    """Write a network that moves one word's direction of a layer's input, and no other's."""
    checkpoint = open_checkpoint(CHECKPOINT)
    reader = Reader(checkpoint)
    (tower,) = encoders(checkpoint.base)
    pieces = vocabulary(CHECKPOINT, tower.tokens)
    tokens = torch.tensor([pieces.index("<|startoftext|>"), *(pieces.index(f"{one}</w>") for one in WORDS)])
    weights = Weights(reader, [], "cpu")
    *_, last = hidden_states(tower, weights, tokens, 0)
    states = normed(tower, weights, last)[0][1:]
    own = torch.linalg.pinv(states)[:, WORDS.index(word)]  # its product is 1 with this word, 0 with all others
    up = torch.randn(32, 1, generator=torch.Generator().manual_seed(1))
    tensors = {"lora_up.weight": up, "lora_down.weight": own[None]}
    if kind == "full":
        tensors = {"diff": up @ own[None]}
    save_file({f"{layer}.{suffix}": tensor.contiguous() for suffix, tensor in tensors.items()}, path, {"ss_base_model_version": "sd_v1"})
    reader.close()
    return path


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("word", ["heart", "purple"])
def test_the_word_that_a_network_moves_comes_first(word: str, kind: str, tmp_path: Path) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    report = interrogate.run(only(tmp_path / "a.safetensors", word, layer, kind), CHECKPOINT).report
    first, second = report["words"][:2]
    assert first["word"] == word and report["clear"] and first["score"] > 5 * second["score"]
    assert first["text"] == 0 and first["cross"] == first["score"] > 0
    asked = interrogate.run(tmp_path / "a.safetensors", CHECKPOINT, words=["Red", word]).report["words"]
    assert [row["word"] for row in asked] == [word, "red"]


@pytest.mark.oracle
def test_the_states_are_those_of_the_real_text_encoder() -> None:
    from lib_lycoris.hosts.embedded.demo import demo_model

    model, checkpoint = demo_model(torch.device("cpu")), open_checkpoint(CHECKPOINT)
    encoder = model.pipe.text_encoder
    made = demo_tokenizer()
    network = load(NETWORKS / "demo-lora.safetensors", checkpoint.base)
    reader = Reader(checkpoint)
    (tower,) = encoders(checkpoint.base)
    weights = Weights(reader, patches(network, checkpoint.base), "cpu")
    ids = torch.tensor([made.bos_token_id, *(made.convert_tokens_to_ids(f"{word}</w>") for word in WORDS)])
    *_, last = hidden_states(tower, weights, ids, 0)
    without, with_it = normed(tower, weights, last)
    rows = torch.tensor([[made.bos_token_id, token, made.eos_token_id] for token in ids[1:].tolist()])
    with torch.no_grad():
        torch.testing.assert_close(without[1:], encoder(rows).last_hidden_state[:, 1], rtol=1e-3, atol=1e-4)
        patcher = Patcher(model.parts())
        patcher.apply([Activation(network, lambda parameter: 1.0)], "merged")
        torch.testing.assert_close(with_it[1:], encoder(rows).last_hidden_state[:, 1], rtol=1e-3, atol=1e-4)
        patcher.restore()
    reader.close()


@pytest.mark.parametrize("name", ["lora", "loha", "lokr", "oft", "boft", "dora", "glora", "ia3", "full", "locon", "tlora"])
def test_every_algorithm_can_be_asked(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["interrogate", "--model", str(NETWORKS / f"demo-{name}.safetensors"), "--base_model", str(CHECKPOINT), "--count", "5"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  ") for line in lines) == 5
    assert lines[0].startswith((f"demo-{name}: no word stands out", f"how far demo-{name} moves words, of "))


def test_what_reacts_to_no_word_or_has_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"
    save_file({f"{layer}.lora_up.weight": torch.ones(32, 1), f"{layer}.lora_down.weight": torch.ones(1, 32)}, path)
    with pytest.raises(ToolError, match="reacts to no word"):
        interrogate.run(path, CHECKPOINT)
    unet = {key: tensor for key, tensor in load_file(CHECKPOINT).items() if key.startswith("model.diffusion_model")}
    save_file(unet, tmp_path / "unet.safetensors")
    with pytest.raises(ToolError, match="holds no text encoder of CLIP's kind"):
        interrogate.run(path, tmp_path / "unet.safetensors")
    with pytest.raises(ToolError, match="zzzz: the text encoder has no token"):
        interrogate.run(NETWORKS / "demo-lora.safetensors", CHECKPOINT, words=["red", "zzzz"])


def test_the_words_of_clip_come_from_files_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"w{number}</w>" for number in range(49406)]
    snapshot = tmp_path / "hub/models--openai--clip-vit-large-patch14/snapshots/abc"
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr("lib_lycoris.tools.files.checkpoints.vocabulary.open_clip_merges", lambda: None)
    with pytest.raises(ToolError, match="neither in the Hugging Face cache"):
        vocabulary(tmp_path / "a.safetensors", 49408)
    snapshot.mkdir(parents=True)
    table = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (snapshot / "vocab.json").write_text(json.dumps(table), encoding="utf-8")
    assert vocabulary(tmp_path / "a.safetensors", 49408)[3] == "w3</w>"
    (tmp_path / "folder/tokenizer").mkdir(parents=True)
    (tmp_path / "folder/tokenizer/vocab.json").write_text(json.dumps({"b</w>": 1, "a</w>": 0}), encoding="utf-8")
    assert vocabulary(tmp_path / "folder", 2) == ["a</w>", "b</w>"]
    with pytest.raises(ToolError, match="knows 7 tokens"):
        vocabulary(tmp_path / "a.safetensors", 7)
