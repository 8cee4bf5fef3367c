"""Networks on the model of a real webui: each does what merging it does, nothing stays, and no mistake ends a run."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_lycoris import load
from lib_lycoris.models import reference
from tests.samples import CONVOLUTION, LINEAR, NORM
from tests.webui.files import SD1_LAYERS, STYLES, base_of, linear_layers, merge, modules_of, write_network
from tests.webui.kinds import recognise
from tests.webui.running import HIRES, PROBE, PROMPT, Picture, Running, largest, mean
from tests.webui.server import WebUI, make_checkpoints

pytestmark = [pytest.mark.webui, pytest.mark.timeout(1800)]
torch.set_num_threads(1)
ALGORITHMS = sorted({*LINEAR, *CONVOLUTION, *NORM})


@pytest.fixture(scope="module")
def models(webui_dir: Path, webui_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_checkpoints(webui_dir, Path(webui_python), folder, *recognise(webui_dir).checkpoint_kinds)
    return folder


@pytest.fixture(scope="module")
def running(webui_dir: Path, webui_python: str, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    webui = WebUI(webui_dir, Path(webui_python), models=models, data=tmp_path_factory.mktemp("webui"), extensions=[PROBE])
    base = base_of(models / "checkpoints" / "sd1-1.safetensors", "sd1")
    write_network(webui.lyco_dir / "full.safetensors", base, "lora", linear_layers(base), seed=5, size=0.5)
    write_network(webui.lora_dir / "plain.safetensors", base, "lora", linear_layers(base), seed=6, size=0.5)
    write_network(webui.lyco_dir / "turned.safetensors", base, "dora_out", SD1_LAYERS, seed=7)
    write_network(webui.lyco_dir / "lokr.safetensors", base, "lokr", SD1_LAYERS, seed=8)
    with webui:
        yield Running(webui)


@pytest.fixture(scope="module")
def plain(running: Running) -> Picture:
    return running.generate()


@pytest.mark.only_in("a1111")
def test_nothing_is_hooked_before_the_first_tag(running: Running, plain: Picture) -> None:
    """This must be the first test that runs in the server."""
    hooked = running.webui.call("/tests/hooked")
    assert {name.split(".")[0] for name in hooked["forwards"].values()} == {"torch"}
    assert hooked["empty"] == "modules.sd_models" and "lib_lycoris" not in hooked["patches"]
    assert "LyCORIS: webui" in running.webui.log() and "network files in" in running.webui.log()
    running.generate("<lyco:full:0.5>")
    assert running.webui.call("/tests/hooked")["forwards"]["Linear_forward"].startswith("lib_lycoris")


SAMPLES = (*ALGORITHMS, *(f"style {style}" for style in STYLES))


@pytest.fixture(scope="module")
def painted() -> dict[str, Picture]:
    """The images of tags that were made so far: the checkpoint is not changed back for each of them."""
    return {}


@pytest.fixture(scope="module")
def untouched(running: Running) -> str:
    """The digest of the model's parameters before the first sample."""
    return running.bits()


def write_sample(running: Running, models: Path, sample: str) -> tuple[Path, int]:
    """Write the network of an algorithm, or a LoRA in a style of keys; return its file and how many layers it is for."""
    base, file = base_of(models / "checkpoints" / "sd1-1.safetensors", "sd1"), running.webui.lyco_dir / f"sample-{sample}.safetensors"
    if sample in ALGORITHMS:
        return file, write_network(file, base, sample, size=0.8 if "lo" in sample else 1.0)
    return file, write_network(file, base, "lora", SD1_LAYERS, sample.removeprefix("style "))


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_sample_changes_the_image_and_leaves_nothing(
    running: Running, plain: Picture, untouched: str, models: Path, painted: dict[str, Picture], sample: str
) -> None:
    """Every algorithm and every style of keys matches whole."""
    file, count = write_sample(running, models, sample)
    network = load(file, base_of(models / "checkpoints" / "sd1-1.safetensors", "sd1"))
    assert len(modules_of(network)) == count and not network.skipped
    painted[sample] = running.generate(f"<lyco:{file.stem}:0.8>")
    assert running.problems == ""
    assert mean(painted[sample], plain) >= 1
    assert largest(running.generate(), plain) == 0


def test_after_all_samples_every_parameter_is_as_before(running: Running, untouched: str) -> None:
    assert running.bits() == untouched


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_sample_equals_its_merge(running: Running, models: Path, painted: dict[str, Picture], sample: str) -> None:
    """What the checkpoint with the network merged in paints, the tag painted."""
    checkpoint, merged = models / "checkpoints" / "sd1-1.safetensors", models / "checkpoints" / f"merged {sample}.safetensors"
    if sample not in painted:  # this test runs alone
        file, _ = write_sample(running, models, sample)
        painted[sample] = running.generate(f"<lyco:{file.stem}:0.8>")
    network = load(running.webui.lyco_dir / f"sample-{sample}.safetensors", base_of(checkpoint, "sd1"))
    merge(checkpoint, merged, [(network, 0.8)])
    running.webui.call("/sdapi/v1/refresh-checkpoints", {})
    expected = running.generate(override_settings={"sd_model_checkpoint": merged.name}, override_settings_restore_afterwards=True)
    merged.unlink()
    assert running.info["sd_model_name"] == merged.stem
    assert largest(painted[sample], expected) <= 1


def test_tags_of_both_loaders_commute_and_leave_nothing(running: Running, plain: Picture) -> None:
    before = running.bits()
    lora, both = running.generate("<lora:plain:0.7>"), running.generate("<lora:plain:0.7><lyco:full:0.6>")
    assert largest(running.generate("<lyco:full:0.6><lora:plain:0.7>"), both) == 0
    assert largest(running.generate("<lora:plain:0.7>"), lora) == 0
    assert largest(running.generate("<lyco:turned:0.6><lora:plain:0.7>"), running.generate("<lora:plain:0.7><lyco:turned:0.6>")) == 0
    assert mean(both, lora) >= 1 and largest(running.generate(), plain) == 0
    assert running.bits() == before
    twice, once = running.generate("<lyco:full:0.3><lyco:full:0.3>"), running.generate("<lyco:full:0.6>")
    assert largest(twice, once) <= 1
    assert largest(running.generate("<lyco:full:0>"), plain) == 0


def test_nothing_is_lost_when_the_ui_is_reloaded(running: Running, plain: Picture) -> None:
    before = running.generate("<lora:plain:0.7><lyco:full:0.6>")
    running.webui.reload_ui()
    assert largest(running.generate("<lyco:full:0.6><lora:plain:0.7>"), before) == 0
    assert largest(running.generate(), plain) == 0


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DPM++ 2M", "DPM++ SDE", "Restart"])
def test_steps_are_sampling_steps(running: Running, sampler: str) -> None:
    """Networks that are on from step N leave the steps before it alone: beyond the last step that is all of them."""
    fields = {"steps": 5, "sampler_name": sampler}
    base, full = running.generate(**fields), running.generate("<lyco:full:0:0.6>", **fields)
    assert largest(running.generate("<lyco:full:0:0.6:start=6>", **fields), base) == 0
    assert largest(running.generate("<lyco:full:0:0.6:start=1>", **fields), full) == 0
    assert largest(running.generate("<lyco:full:0:0.6:stop=6>", **fields), full) == 0
    later = [mean(running.generate(f"<lyco:full:0:0.6:start={n}>", **fields), base) for n in (2, 3, 4)]
    assert mean(full, base) > later[0] > later[1] > later[2] > 0


def test_the_hires_pass_has_strengths_and_tags_of_its_own(running: Running) -> None:
    base, first = running.generate(**HIRES), running.generate("<lyco:full:0.5:hr=0>", **HIRES)
    second = running.generate("<lyco:full:0:hr=0.5>", **HIRES)
    assert largest(running.generate("", hr_prompt=f"{PROMPT} <lyco:full:0.5>", **HIRES), second) == 0
    assert largest(running.generate("<lyco:full:0.5>", hr_prompt=PROMPT, **HIRES), first) == 0
    assert min(mean(first, base), mean(second, base), mean(first, second)) >= 1
    assert largest(running.generate(**HIRES), base) == 0


REFINER = {"refiner_checkpoint": "sd1-2.safetensors", "refiner_switch_at": 0.5, "steps": 6}


def test_a_refiner_has_the_networks_too(running: Running) -> None:
    """The built-in loader does it right where both checkpoints share the model object; ours must do it everywhere."""
    base, theirs = running.generate(**REFINER), running.generate("<lora:plain:0.7>", **REFINER)
    assert largest(running.generate("<lyco:plain:0.7>", **REFINER), theirs) <= 1
    assert mean(theirs, base) >= 1 and largest(running.generate(**REFINER), base) == 0


@pytest.mark.only_in("a1111")
def test_a_refiner_that_stays_in_memory_has_the_networks_too(running: Running) -> None:
    base, theirs = running.generate(**REFINER), running.generate("<lora:plain:0.7>", **REFINER)
    running.webui.options(sd_checkpoints_limit=2)
    try:
        assert largest(running.generate("<lyco:plain:0.7>", **REFINER), theirs) <= 1
        assert largest(running.generate("<lyco:plain:0.7>", **REFINER), theirs) <= 1
        assert largest(running.generate(**REFINER), base) == 0
    finally:
        running.webui.options(sd_checkpoints_limit=1)


@pytest.mark.only_in("a1111")
@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_other_families_agree_with_the_built_in_loader(running: Running, plain: Picture, models: Path, kind: str) -> None:
    base = base_of(models / "checkpoints" / f"{kind}-1.safetensors", kind)
    write_network(running.webui.lora_dir / f"for-{kind}.safetensors", base, "lora", linear_layers(base), size=0.3)
    write_network(running.webui.lyco_dir / "real-sd1.safetensors", reference("sd1"), "lora", SD1_LAYERS)  # tiny ones fit tiny layers
    running.webui.options(sd_model_checkpoint=f"{kind}-1.safetensors")
    try:
        before, theirs = running.generate(), running.generate(f"<lora:for-{kind}:0.7>")
        assert running.info["sd_model_name"] == f"{kind}-1"
        assert largest(running.generate(f"<lyco:for-{kind}:0.7>"), theirs) <= 1 and running.problems == ""
        assert mean(theirs, before) >= 1
        assert largest(running.generate("<lyco:real-sd1:0.7>"), before) == 0 and "is for Stable Diffusion 1.x" in running.problems
        assert largest(running.generate(), before) == 0
    finally:
        running.webui.options(sd_model_checkpoint="sd1-1.safetensors")
    assert largest(running.generate(), plain) == 0


def test_a_wrong_file_or_tag_is_told_and_the_rest_works(running: Running, plain: Picture) -> None:
    whole = running.webui.lyco_dir / "full.safetensors"
    (running.webui.lyco_dir / "broken.safetensors").write_bytes(whole.read_bytes()[:4000])
    (running.webui.lyco_dir / "empty.safetensors").write_bytes(b"")
    good = running.generate("<lyco:full:0.6>")
    mistakes = {"nothere": "no network called", "broken": "broken.safetensors", "empty": "empty.safetensors", "full:foo=1": "is not a key"}
    for tag, sentence in mistakes.items():
        assert largest(running.generate(f"<lyco:{tag}>"), plain) == 0
        assert sentence in running.problems
        assert largest(running.generate(f"<lyco:{tag}><lyco:full:0.6>"), good) == 0
        assert sentence in running.problems
    assert largest(running.generate(), plain) == 0


def test_a_file_that_changes_is_read_again_also_by_the_text_encoder(running: Running, plain: Picture, models: Path) -> None:
    base = base_of(models / "checkpoints" / "sd1-1.safetensors", "sd1")
    words = [name for name in linear_layers(base) if name.startswith("transformer.")]
    file = running.webui.lyco_dir / "changing.safetensors"
    assert largest(running.generate("<lyco:changing>"), plain) == 0 and "changing" in running.problems
    write_network(file, base, "lora", words, seed=1)
    first = running.generate("<lyco:changing>")
    assert mean(first, plain) >= 1 and running.problems == ""
    time.sleep(0.02)
    write_network(file, base, "lora", words, seed=2)
    assert mean(running.generate("<lyco:changing>"), first) >= 1


def test_infotexts_name_the_files(running: Running) -> None:
    running.generate("<lyco:full:0.6><lora:plain:0.2>")
    found = running.info["extra_generation_params"]
    assert found["Lyco hashes"].startswith("full: ") and len(found["Lyco hashes"]) == len("full: ") + 12
    assert "full: " in found["Lora hashes"] and "plain: " in found["Lora hashes"]
    assert "Lyco hashes" in running.info["infotexts"][0]


PIECES = ["<lora:plain:{s}>", "<lyco:full:{s}>", "<lyco:turned:{s}>", "<lyco:plain:{s}:start=2>", "<lyco:full:0@0,{s}@1>",
          "<lyco:nothere:{s}>", "<lyco:full:{s}:lbw=MIDD>", "<lyco:lokr:{s}:stop=3>", "<lyco:full:{s}:hr={s}>",
          "[<lyco:full:{s}>:<lyco:turned:{s}>:0.5]", "[<lyco:turned:{s}>::2]"]  # fmt: skip


def random_prompt(seed: int, checkpoints: Sequence[str] = ("sd1-2.safetensors",)) -> tuple[str, dict[str, Any]]:
    """Return tags and fields of a run, of everything that can be mixed."""
    dice = random.Random(seed)
    tags = "".join(piece.format(s=round(dice.uniform(-1, 1), 2)) for piece in dice.sample(PIECES, dice.randint(0, 3)))
    fields: dict[str, Any] = {"steps": dice.randint(2, 4), "seed": seed}
    if dice.random() < 0.2:
        fields |= HIRES
    if dice.random() < 0.2:
        fields |= {"refiner_checkpoint": "sd1-2.safetensors", "refiner_switch_at": 0.5}
    if dice.random() < 0.2:
        fields["override_settings"] = {"sd_model_checkpoint": dice.choice(checkpoints)}
    return tags, fields


def asked_for(sentence: str, fields: dict[str, Any]) -> bool:
    """Tell whether a run was asked for something that cannot be done, and is told so: of networks for SD1 on SD2 many layers do not fit."""
    other_model = "sd2" in str(fields.get("override_settings"))
    return "nothere" in sentence or "the brackets around it turn it on at no step" in sentence or (other_model and "layers" in sentence)


def test_random_runs_end_where_they_began(running: Running, plain: Picture, webui_dir: Path, request: pytest.FixtureRequest) -> None:
    kinds = [kind for kind in recognise(webui_dir).checkpoint_kinds if kind in ("sd1:2", "sd2")]
    checkpoints = [f"{kind.replace(':', '-') if ':' in kind else f'{kind}-1'}.safetensors" for kind in kinds]
    before = running.bits()
    for seed in range(200 if request.config.getoption("--long") else 50):
        tags, fields = random_prompt(seed, checkpoints)
        print(f"seed {seed}: {tags} {fields}")  # pytest shows it where the test fails
        running.generate(tags, **fields)
        assert all(asked_for(sentence, fields) for sentence in filter(None, running.problems.split(" | "))), running.problems
    assert largest(running.generate(), plain) == 0
    assert running.bits() == before
