"""The tag grammar, schedules, block weights, element filters and presets: values for every row of the grammar."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_lycoris.errors import PromptError
from lib_lycoris.models import UNKNOWN
from lib_lycoris.models.blocks import LAYOUTS
from lib_lycoris.prompt import (
    BlockWeights,
    Cell,
    ElementRule,
    Presets,
    Schedule,
    StrengthMap,
    Tag,
    TagError,
    find_tags,
    parse_args,
    parse_tag,
    parse_weights,
    resolve,
)
from lib_lycoris.prompt.strength import flat_name

ATTN = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"  # IN04
FEED = "diffusion_model.output_blocks.4.1.transformer_blocks.0.ff.net.0.proj.weight"  # OUT04
MIDDLE = "diffusion_model.middle_block.1.proj_in.weight"  # M00
CONV = "diffusion_model.input_blocks.3.0.op.bias"  # IN03
TIME = "diffusion_model.time_embed.0.weight"  # no block
SD1_TEXT = "transformer.text_model.encoder.layers.0.mlp.fc1.weight"
TE1 = "0.transformer.text_model.encoder.layers.3.self_attn.k_proj.weight"
TE2 = "1.model.transformer.resblocks.8.attn.in_proj_weight[q]"
FLUX_DOUBLE = "diffusion_model.double_blocks.3.img_attn.qkv.weight[k]"
FLUX_SINGLE = "diffusion_model.single_blocks.7.linear1.weight[mlp]"
CLIP_L = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
T5 = "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight"
OURS = Presets.default()


def tag_of(text: str) -> Tag:
    rest, found = find_tags(text)
    assert rest == ""
    assert len(found) == 1
    if isinstance(found[0], TagError):
        raise found[0]
    return found[0]


def strengths(text: str, family: str = "sd1", seed: int = 0, hires: bool = False) -> StrengthMap:
    return resolve(tag_of(text), family, seed, OURS, hires)


def error_of(text: str) -> str:
    with pytest.raises(TagError) as caught:
        strengths(text)
    message = str(caught.value)
    assert caught.value.tag == text
    assert message.startswith(f"{text}: ")
    return message.removeprefix(f"{text}: ")


def seventeen(value: object = 1) -> str:
    return ",".join([str(value)] * 17)


# --- strengths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "te", "te2", "unet"),
    [
        ("<lyco:M>", 1, 1, 1),
        ("<lyco:M:0.7>", 0.7, 0.7, 0.7),
        ("<lyco:M:0.7:0.4>", 0.7, 0.7, 0.4),
        ("<lyco:M:-0.5:-1.5>", -0.5, -0.5, -1.5),
        ("<lyco:M:0>", 0, 0, 0),
        ("<lyco:M:te=0.3>", 0.3, 0.3, 0.3),
        ("<lyco:M:unet=0.3>", 1, 1, 0.3),
        ("<lyco:M:te2=0.3>", 1, 0.3, 1),
        ("<lyco:M:0.5:te2=0.2:unet=0.9>", 0.5, 0.2, 0.9),
        ("<lyco:M:dyn=13:unet=1:0.5>", 0.5, 0.5, 1),
        ("<lyco:M:0.7:te=0.1>", 0.1, 0.1, 0.1),
        ("<lyco:M: .5 : 1. >", 0.5, 0.5, 1),
        ("<lyco:M:1e-1>", 0.1, 0.1, 0.1),
    ],
)
def test_strengths(text: str, te: float, te2: float, unet: float) -> None:
    got = strengths(text, "sdxl")
    assert (got(TE1), got(TE2), got(ATTN)) == (te, te2, unet)
    assert not got.changes


def test_each_text_encoder_has_its_strength() -> None:
    text = "<lyco:M:0.1:0.3:te2=0.2>"
    assert strengths(text, "sd1")(SD1_TEXT) == 0.1
    assert strengths(text, "sd2")("model.transformer.resblocks.0.mlp.c_fc.weight") == 0.1
    assert strengths(text, "sd2")("model.ln_final.bias") == 0.1
    assert strengths(text, "sdxl-refiner")("0.model.transformer.resblocks.0.mlp.c_fc.weight") == 0.2  # as in SDXL
    flux = strengths(text, "flux")
    assert (flux(CLIP_L), flux(T5), flux(FLUX_DOUBLE)) == (0.1, 0.2, 0.3)
    sd3 = strengths(text, "sd3")
    assert (sd3(CLIP_L), sd3("clip_g." + TE1[2:]), sd3(T5)) == (0.1, 0.2, 0.2)
    with pytest.raises(PromptError, match='"sd9" is not a family'):
        strengths(text, "sd9")
    assert strengths(text)("diffusion_model.input_blocks.0.0.weight") == 0.3


@pytest.mark.parametrize(
    ("text", "te", "te2", "unet"),
    [
        ("<lyco:M:0.7:0.4>", 0.7, 0.7, 0.4),
        ("<lyco:M:0.7:0.4:hr=0.2>", 0.2, 0.2, 0.2),
        ("<lyco:M:0.7:0.4:hrte=0.2>", 0.2, 0.2, 0.4),
        ("<lyco:M:0.7:0.4:hrunet=0.2>", 0.7, 0.7, 0.2),
        ("<lyco:M:0.7:0.4:hr=0.2:hrunet=0.9>", 0.2, 0.2, 0.9),
        ("<lyco:M:0.7:0.4:te2=0.1:hrunet=0.9>", 0.7, 0.1, 0.9),
        ("<lyco:M:0.7:0.4:hrte2=0.1>", 0.7, 0.1, 0.4),
        ("<lyco:M:0.7:hr=0>", 0, 0, 0),
    ],
)
def test_hires_strengths(text: str, te: float, te2: float, unet: float) -> None:
    got = strengths(text, "sdxl", hires=True)
    assert (got(TE1), got(TE2), got(ATTN)) == (te, te2, unet)
    first = strengths(text, "sdxl")
    assert (first(TE1), first(ATTN)) == (0.7, 0.4 if ":0.4" in text else 0.7)


@pytest.mark.parametrize(
    ("text", "dyn", "weights"),
    [
        ("<lyco:M:1:1>", None, None),
        ("<lyco:M:1:1:8>", 8, None),
        ("<lyco:M:1:1:0>", None, None),
        ("<lyco:M:dyn=13>", 13, None),
        ("<lyco:M:1:1:8:dyn=4>", 4, None),
        ("<lyco:M:1:1:MIDD>", None, "MIDD"),
        ("<lyco:M:1:MIDD>", None, "MIDD"),
        ("<lyco:M:1:ALL0.5>", None, "ALL0.5"),
        ("<lyco:M:lbw=MIDD>", None, "MIDD"),
        ("<lyco:M:w=MIDD>", None, "MIDD"),
        ("<lyco:M:1:1:MIDD:w=OUTS>", None, "OUTS"),
        ("<lyco:M:dyn=4:lbw=MIDD>", 4, "MIDD"),
        (f"<lyco:M:1:1:{seventeen()}>", None, parse_weights(seventeen())),
        (f"<lyco:M:1:{seventeen()}>", None, parse_weights(seventeen())),
        (f"<lyco:M:1:{seventeen('R')}>", None, parse_weights(seventeen("R"))),
    ],
)
def test_third_position_is_dyn_or_blocks(text: str, dyn: int | None, weights: object) -> None:
    tag = tag_of(text)
    assert (tag.dyn, tag.weights) == (dyn, weights)
    assert tag.te == tag.unet == Schedule.constant(1)


def test_fourth_position_is_x_or_element_filters() -> None:
    assert tag_of("<lyco:M:1:1:MIDD:0.3>").x == 0.3
    assert tag_of("<lyco:M:1:1:MIDD:ATTNDEEPOFF>").elements == "ATTNDEEPOFF"
    assert tag_of("<lyco:M:1:MIDD:0.3>").x == 0.3


# --- text around and inside ------------------------------------------------------------------------------------------


def test_find_tags_takes_only_our_names() -> None:
    prompt = "a cat <lyco:one:0.5>, <lora:two:1> <lyco:bad:x=> (hat:1.2) <lyco:three>"
    rest, found = find_tags(prompt)
    assert rest == "a cat , <lora:two:1>  (hat:1.2) "
    assert [type(tag) for tag in found] == [Tag, TagError, Tag]
    assert [tag.name for tag in found if isinstance(tag, Tag)] == ["one", "three"]
    both = find_tags(prompt, ("lora", "lyco"))[1]
    assert [tag.name for tag in both if isinstance(tag, Tag)] == ["one", "two", "three"]
    assert find_tags("no < tags > <lyco> here") == ("no < tags > <lyco> here", [])


@pytest.mark.parametrize("name", ["my style", "v1.5", "people/sara", "a, b", "naïve_ä", "x=1", "0.7", "a@b"])
def test_names_may_hold_almost_anything(name: str) -> None:
    tag = tag_of(f"<lyco: {name} :0.7>")
    assert (tag.name, tag.te) == (name, Schedule.constant(0.7))


def test_text_is_kept_as_typed_and_does_not_count() -> None:
    tag = parse_tag([" M ", " 0.70 "])
    assert tag.text == "<lyco: M : 0.70 >"
    assert tag == tag_of("<lyco:M:0.7>")
    assert parse_tag(["M"], "lora").text == "<lora:M>"


def test_whitespace_around_pieces_is_stripped() -> None:
    tag = tag_of("<lyco:M : 0.7 : lbw = MIDD : start = 3 :\n x = 2 >")
    assert (tag.te, tag.weights, tag.start, tag.x) == (Schedule.constant(0.7), "MIDD", 3, 2)
    spaced = seventeen().replace(",", " , ")
    assert tag_of(f"<lyco:M:lbw={spaced}>").weights == parse_weights(seventeen())


def test_args_already_split_by_the_webui() -> None:
    assert parse_args(["M", "0.5"], {"unet": "1", "dyn": "13"}) == tag_of("<lyco:M:dyn=13:unet=1:0.5>")
    with pytest.raises(TagError, match=r'^<lyco:M:0.5:lbx=1>: "lbx"'):
        parse_args(["M", "0.5"], {"lbx": "1"})


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps", "values"),
    [
        ("0.7", 3, [0.7, 0.7, 0.7]),
        ("0@0,1@1", 5, [0, 0.25, 0.5, 0.75, 1]),  # fractions of steps - 1
        ("0~0;1~1", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("1@1,0@0", 5, [0, 0.25, 0.5, 0.75, 1]),  # order does not matter
        ("0@0.25,1@0.75", 5, [0, 0, 0.5, 1, 1]),  # flat outside
        ("0@1,1@3", 5, [0, 0, 0.5, 1, 1]),  # 0-based steps
        ("0@0,1@2,0@4", 6, [0, 0.5, 1, 0.5, 0, 0]),
        ("1@0,1@0.5,0@0.5,0@1", 5, [1, 1, 0, 0, 0]),  # a jump
        ("0@0,1", 3, [0, 0.5, 1]),  # a later one without a position stands at 1
        ("0.4@0.5", 3, [0.4, 0.4, 0.4]),
        ("0.5,0@1", 3, [0.5, 0.5, 0.5]),  # a first one without a position is a constant
        ("0@0,1@1", 1, [0]),
    ],
)
def test_keyframes(text: str, steps: int, values: list[float]) -> None:
    schedule = Schedule.parse(text)
    assert [schedule.value(step, steps) for step in range(steps)] == values
    assert schedule.changes == (len(schedule.points) > 1)


def test_keyframes_in_a_tag() -> None:
    got = strengths("<lyco:M:1@0,0@1:0@0,1@1:hr=1@0,0.5@1>")
    assert [got.at(ATTN, step, 3) for step in range(3)] == [0, 0.5, 1]
    assert [got.at(SD1_TEXT, step, 3) for step in range(3)] == [1, 0.5, 0]
    assert got.changes
    hires = strengths("<lyco:M:hr=1@0,0.5@1>", hires=True)
    assert [hires.at(ATTN, step, 3) for step in range(3)] == [1, 0.75, 0.5]


@pytest.mark.parametrize(
    ("keys", "on"),
    [
        ("start=3", [3, 4, 5, 6]),
        ("stop=3", [1, 2]),
        ("step=2-5", [2, 3, 4]),
        ("start=2:stop=5", [2, 3, 4]),
        ("start=1", [1, 2, 3, 4, 5, 6]),
        ("start=0", [1, 2, 3, 4, 5, 6]),
        ("stop=1", []),
        ("start=9", []),
        ("stop=7", [1, 2, 3, 4, 5, 6]),
    ],
)
def test_start_and_stop_count_steps_from_one(keys: str, on: list[int]) -> None:
    got = strengths(f"<lyco:M:0.5:{keys}>")
    assert [step + 1 for step in range(6) if got.at(ATTN, step, 6) == 0.5] == on
    assert {got.at(ATTN, step, 6) for step in range(6)} <= {0, 0.5}
    assert got(SD1_TEXT) == 0.5  # the text encoder keeps its strength


def test_start_and_keyframes_together() -> None:
    got = strengths("<lyco:M:1:0@0,1@4:step=2-4>")
    assert [got.at(ATTN, step, 5) for step in range(5)] == [0, 0.25, 0.5, 0, 0]


def test_a_strength_that_never_changes_is_a_float() -> None:
    assert strengths("<lyco:M:1@0,1@1>")(ATTN) == 1.0
    assert isinstance(strengths("<lyco:M:1:0@0,1@1>")(ATTN), Schedule)
    assert strengths("<lyco:M:1:0@0,1@1:lbw=NONE>")(ATTN) == 0.0
    assert not strengths("<lyco:M:0:start=5>").changes


# --- block weights ---------------------------------------------------------------------------------------------------


def test_count_picks_the_layout_and_other_blocks_get_zero() -> None:
    values = [str(i / 100) for i in range(61)]
    for count, layout in LAYOUTS.items():
        tag = tag_of(f"<lyco:M:lbw={','.join(values[:count])}>")
        got = dict(resolve(tag, "sd1", 0, OURS).ratios or ())
        assert list(got) == list(layout)
        assert list(got.values()) == [i / 100 for i in range(count)]
    got = strengths(f"<lyco:M:0.5:lbw={seventeen(0.5)}>")
    assert (got(ATTN), got(MIDDLE), got(FEED), got(SD1_TEXT)) == (0.25, 0.25, 0.25, 0.25)
    assert got(CONV) == 0  # IN03 is not among the 17
    assert got(TIME) == 0.5  # in no block: ratio 1


def test_blocks_in_their_place() -> None:
    sdxl = strengths("<lyco:M:0.5:2:lbw=0.1,0.2,1,1,1,0.3,1,1,1,1,0.4,1>", "sdxl")  # 12
    expected = (0.05, 0.05, 0.4, 0.6, 0.8, 0.0)
    assert (sdxl(TE1), sdxl(TE2), sdxl(ATTN), sdxl(MIDDLE), sdxl(FEED), sdxl(CONV)) == expected
    flux = strengths("<lyco:M:lbw=FLUX-DOUBLE>", "flux")
    assert (flux(CLIP_L), flux(T5), flux(FLUX_DOUBLE), flux(FLUX_SINGLE)) == (1, 1, 1, 0)


def test_x_and_offsets() -> None:
    cells = "X,X+0.2,X-0.1," + ",".join(["0"] * 14)
    ratios = dict(strengths(f"<lyco:M:lbw={cells}:x=0.5>").ratios or ())
    assert (ratios["BASE"], ratios["IN01"], ratios["IN02"], ratios["IN04"]) == (0.5, 0.7, 0.4, 0)
    assert dict(strengths(f"<lyco:M:lbw={cells}>").ratios or ())["IN01"] == 1.2  # x is 1 where it is not given


def test_random_weights_follow_the_seed() -> None:
    text = f"<lyco:M:lbw={','.join(['R'] * 8 + ['U'] * 9)}>"
    one, again, other = (strengths(text, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one.digest == again.digest
    assert hash(one) == hash(again)
    assert one != other
    assert strengths(text, seed=1, hires=True) == one
    assert strengths(text.replace(":M:", ":N:"), seed=1) != one  # two networks of one image differ
    values = [ratio for _, ratio in one.ratios or ()]
    assert values == [round(value, 3) for value in values]
    assert len(set(values)) > 10
    for seed in range(200):
        drawn = [ratio for _, ratio in strengths(text, seed=seed).ratios or ()]
        assert all(0 <= value <= 1 for value in drawn[:8])
        assert all(-0.5 <= value <= 1.5 for value in drawn[8:])


def test_random_weights_do_not_change_between_releases() -> None:
    ratios = dict(strengths("<lyco:M:lbw=R,U," + ",".join(["1"] * 15) + ">", seed=42).ratios or ())
    assert (ratios["BASE"], ratios["IN01"], ratios["IN02"]) == (0.032, 1.229, 1)


def test_block_weights_of_a_model_without_known_blocks_are_refused() -> None:
    with pytest.raises(PromptError, match="block weights need a base model whose blocks are known"):
        strengths("<lyco:M:lbw=ALL>", UNKNOWN.id)


def test_a_foreign_layout_is_told() -> None:
    assert strengths("<lyco:M:lbw=ALL>").notes == ()
    (note,) = strengths("<lyco:M:lbw=ALL>", "sdxl").notes
    assert note.startswith("<lyco:M:lbw=ALL>: 17 weights are made for Stable Diffusion 1.x and Stable Diffusion 2.x;")
    assert "use 12 or 20 weights" in note
    assert "lbwe" in strengths("<lyco:M:lbw=ALL>", "sd3").notes[0]
    assert strengths("<lyco:M:lbw=SDXL-ALL>", "sdxl").notes == ()


# --- element filters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "attn", "feed", "middle", "text"),
    [
        ("::0.3", 0.3, 0.3, 0.3, 0.3),
        ("IN04::0.3", 0.3, 1, 1, 1),
        ("IN00-MID::0.3", 0.3, 1, 0.3, 1),
        ("MID::0.3", 1, 1, 0.3, 1),
        ("NOT IN04 M00::0.3", 1, 0.3, 1, 0.3),
        (":attn1:0.3", 0.3, 1, 1, 1),
        (":attn:0.3", 0.3, 1, 1, 1),
        (":attn2:0.3", 1, 1, 1, 1),
        (":ff:0.3", 1, 0.3, 1, 1),
        (":proj:0.3", 1, 0.3, 0.3, 1),
        (":NOT attn ff:0.3", 1, 1, 0.3, 0.3),
        (":to_k:0.3", 1, 1, 1, 1),
        (":to_q:0.3", 0.3, 1, 1, 1),
        ("encoder::0.3", 1, 1, 1, 0.3),
        (":encoder:0.3", 1, 1, 1, 0.3),
        ("BASE::0.3", 1, 1, 1, 0.3),
        ("OUT::0.3", 1, 0.3, 1, 1),
        ("OUT00-OUT11:ff:0.3,OUT04::0.6", 1, 0.6, 1, 1),  # the last one replaces
        ("OUT04::0.6,OUT00-OUT11:ff:0.3", 1, 0.3, 1, 1),
    ],
)
def test_element_filters(rules: str, attn: float, feed: float, middle: float, text: float) -> None:
    got = strengths(f"<lyco:M:lbwe={rules}>")
    assert (got(ATTN), got(FEED), got(MIDDLE), got(SD1_TEXT)) == (attn, feed, middle, text)


def test_element_filters_replace_the_block_weight() -> None:
    got = strengths(f"<lyco:M:0.5:lbw={seventeen(0.5)}:lbwe=:attn1:0.8:start=2>")
    assert (got.at(ATTN, 5, 9), got.at(ATTN, 0, 9), got.at(FEED, 5, 9)) == (0.4, 0, 0.25)
    assert strengths("<lyco:M:lbwe=ATTNDEEPOFF>")("diffusion_model.input_blocks.5.1.t.attn1.to_q.weight") == 0
    assert strengths("<lyco:M:lbw=NONE:lbwe=XYZ>")(ATTN) == 1


def test_a_set_by_name_leaves_positions_alone() -> None:
    tag = tag_of("<lyco:M:lbwe=ATTNDEEPOFF:0.7:0.5>")
    assert (tag.elements, tag.te, tag.unet) == ("ATTNDEEPOFF", Schedule.constant(0.7), Schedule.constant(0.5))
    tag = tag_of("<lyco:M:lbwe=IN05-OUT05:attn:0:0.7:0.5>")
    assert (tag.elements, tag.te) == ((ElementRule("IN05-OUT05", "attn", 0),), Schedule.constant(0.7))


def test_names_that_filters_look_into() -> None:
    assert flat_name(ATTN) == "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    assert "ff" not in flat_name(ATTN)
    assert flat_name(SD1_TEXT) == "lora_te_transformer_text_model_encoder_layers_0_mlp_fc1"
    assert flat_name(TE2) == "lora_te_encoder_1_model_transformer_resblocks_8_attn_q_proj"
    assert flat_name(FLUX_DOUBLE) == "lora_unet_double_blocks_3_img_attn_qkv_to_k"
    assert flat_name("1.model.transformer.resblocks.8.attn.in_proj_bias").endswith("_resblocks_8_attn")
    assert flat_name(CONV) == "lora_unet_input_blocks_3_0_op"
    got = strengths("<lyco:M:lbwe=D00-D05:to_k:0.3>", "flux")
    assert (got(FLUX_DOUBLE), got(FLUX_DOUBLE.replace("[k]", "[q]"))) == (0.3, 1)
    assert got(FLUX_DOUBLE.replace("blocks.3", "blocks.6")) == 1


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<lyco:style:0.7:lbx=MIDD>", '"lbx" is not a key; did you mean "lbw"?'),
        ("<lyco:M:zzz=1>", '"zzz" is not a key; the keys are te, te2, unet,'),
        ("<lyco:M:TE=1>", '"TE" is not a key; did you mean "te"?'),
        ("<lyco:M:a=b=c>", '"a" is not a key'),
        ("<lyco::0.7>", "the name of the network is missing"),
        ("<lyco:M:te=>", '"te" has no value'),
        ("<lyco:M::0.5>", "value 1 after the name is empty"),
        ("<lyco:M:1:>", "value 2 after the name is empty"),
        ("<lyco:M:1:1:>", "value 3 after the name is empty"),
        ("<lyco:M:abc>", '"abc" is not the strength of the text encoder'),
        ("<lyco:my:style:0.7>", "or, where the name has a colon, write my%3Astyle"),
        ("<lyco:M:nan>", '"nan" is not the strength of the text encoder'),
        ("<lyco:M:1:inf>", '"inf" is not the strength of the UNet'),
        ("<lyco:M:unet=-inf>", '"-inf" is not the strength of the UNet'),
        ("<lyco:M:1e999>", '"1e999" is too large'),
        ("<lyco:M:1:0.5x>", '"0.5x" is not the strength of the UNet'),
        ("<lyco:M:0@0,x@1>", '"x" is not the strength'),
        ("<lyco:M:0@0,1@-1>", '"1@-1" has a negative position'),
        ("<lyco:M:0@0@1>", '"0@0@1" is not a keyframe'),
        ("<lyco:M:0@0,>", '"" is not the strength'),
        ("<lyco:M:1:1:-8>", '"-8" is not a number of ranks'),
        ("<lyco:M:dyn=2.5>", '"2.5" is not a number of ranks'),
        ("<lyco:M:lbw=1,2,3>", "12, 17, 20, 26 or 61 values, or are the name of a preset, but 3 values came"),
        ("<lyco:M:1:1:0.5>", "12, 17, 20, 26 or 61 values, or are the name of a preset, but 1 value came"),
        (f"<lyco:M:lbw={seventeen('r')}>", '"r" is not a block weight (a number, R, U, X'),
        (f"<lyco:M:lbw={seventeen('nan')}>", '"nan" is not a block weight'),
        ("<lyco:M:lbw=MIDDD>", 'there is no preset "MIDDD"; the nearest are MIDD'),
        ("<lyco:M:lbw=midd>", 'there is no preset "midd"; the nearest are MIDD'),
        ("<lyco:M:lbwe=ATTNDEEP>", 'there is no set of element filters "ATTNDEEP"; the nearest are ATTNDEEPO'),
        ("<lyco:M:lbwe=IN05-OUT99:attn:0>", '"IN05-OUT99" is not a range of blocks'),
        ("<lyco:M:lbwe=IN05-D03:attn:0>", '"IN05-D03" is not a range of blocks'),
        ("<lyco:M:lbwe=NOT:attn:0>", "has NOT with nothing after it"),
        ("<lyco:M:start=abc>", '"abc" is not a sampling step'),
        ("<lyco:M:start=-3>", '"-3" is not a sampling step'),
        ("<lyco:M:step=5>", '"5" is not a span of steps'),
        ("<lyco:M:step=9-5>", "on from step 9 and off from step 5 is never on"),
        ("<lyco:M:start=2:step=5-9>", '"step" and "start" say the same thing'),
        ("<lyco:M:lbw=MIDD:w=MIDD>", '"lbw" and "w" say the same thing'),
        ("<lyco:M:te=1:te=2>", '"te" is given twice'),
        ("<lyco:M:x=a>", '"a" is not the value of x'),
        ("<lyco:M:1:1:8:0.5:7>", '"7" is one value too many'),
    ],
)
def test_mistakes_name_the_tag_and_what_is_wrong(text: str, sentence: str) -> None:
    assert sentence in error_of(text)


def test_errors_are_kept_apart_from_the_other_tags() -> None:
    _, found = find_tags("<lyco:a:oops><lyco:b:0.5>")
    assert isinstance(found[0], TagError)
    assert found[0].reason in str(found[0])
    assert found[1] == Tag.of("b", Schedule.constant(0.5))


# --- presets ---------------------------------------------------------------------------------------------------------


def test_classic_presets_have_the_known_values() -> None:
    expected = {
        "NONE": seventeen(0),
        "ALL": seventeen(),
        "INS": "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0",
        "IND": "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
        "INALL": "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0",
        "MIDD": "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
        "OUTD": "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
        "OUTS": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1",
        "OUTALL": "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1",
        "ALL0.5": seventeen(0.5),
        "FLUXALL": ",".join(["1"] * 61),
    }
    assert {name: OURS.weights(name).format() for name in expected} == expected
    assert OURS.weights_text.startswith("NONE:0,0,")
    assert OURS.weights("SDXL-MIDD").format() == "1,0,0,0,0,0,0,1,1,1,1,1,1,1,0,0,0,0,0,0"
    assert all(OURS.weights(name).cells for name in OURS.weight_names)
    assert all(OURS.elements(name) for name in OURS.element_names)


def test_presets_from_files(tmp_path) -> None:
    weights, elements = tmp_path / "lbwpresets.txt", tmp_path / "elempresets.txt"
    weights.write_text(f"\ufeff MINE :{seventeen(0.3)}\nALL:1,2,3\n# OLD:{seventeen()}\nno colon\nBAD:{seventeen('z')}\n", "utf-8")
    elements.write_text("ONE:IN05:attn:0,OUT04::0.5\nM00::1\nbroken:rule\n\nTWO:\n:ff:0\nTHREE:::1", "utf-8")
    presets = Presets.load(weights, elements)
    assert presets.weights("MINE") == parse_weights(seventeen(0.3))
    assert presets.weight_names[:2] == ("MINE", "BAD")
    assert presets.weights("SDXL-ALL") == OURS.weights("SDXL-ALL")  # ours by name, beside the file's
    assert presets.element_names == ("ONE", "TWO", "THREE")
    rules = (ElementRule("IN05", "attn", 0), ElementRule("OUT04", "", 0.5), ElementRule("M00", "", 1))
    assert presets.elements("ONE") == rules
    assert presets.elements("THREE") == (ElementRule("", "", 1),)
    with pytest.raises(TagError, match='no preset "ALL"'):
        resolve(tag_of("<lyco:M:lbw=ALL>"), "sd1", 0, presets)
    with pytest.raises(TagError, match='in the preset "BAD", "z" is not a block weight'):
        resolve(tag_of("<lyco:M:lbw=BAD>"), "sd1", 0, presets)
    with pytest.raises(PromptError, match="cannot be written"):
        OURS.save(tmp_path / "no folder" / "lbwpresets.txt")
    with pytest.raises(PromptError, match=r"none\.txt cannot be read"):
        Presets.load(tmp_path / "none.txt")
    assert Presets.load(None) == OURS


def test_saving_presets_keeps_what_people_wrote(tmp_path) -> None:
    path = tmp_path / "lbwpresets.txt"
    path.write_text(f"# my notes\nMINE:{seventeen()}\nOTHER:{seventeen(0)}\n", "utf-8")
    Presets.load(path).with_weights("MINE", parse_weights(seventeen("R"))).with_weights("NEW", parse_weights(seventeen("X+0.2"))).save(path)
    lines = path.read_text("utf-8").splitlines()
    assert lines == ["# my notes", f"MINE:{seventeen('R')}", f"OTHER:{seventeen(0)}", f"NEW:{seventeen('X+0.2')}"]
    assert [file.name for file in tmp_path.iterdir()] == ["lbwpresets.txt"]  # the part file is gone
    OURS.save(path, tmp_path / "elempresets.txt")
    assert Presets.load(path, tmp_path / "elempresets.txt") == OURS


# --- values and round trips ------------------------------------------------------------------------------------------


def test_maps_compare_by_effect() -> None:
    one, same, other = (strengths(text) for text in ("<lyco:M:0.7>", "<lyco:N:0.70:0.7>", "<lyco:M:0.7:0.8>"))
    assert one == same
    assert one.digest == same.digest
    assert one.digest != other.digest
    assert strengths("<lyco:M:-0>").digest == strengths("<lyco:M:0>").digest
    assert pickle.loads(pickle.dumps(one)) == one


numbers = st.floats(-4, 4, allow_nan=False).map(lambda value: value + 0.0)
constants = numbers.map(Schedule.constant)
keyframes = st.lists(st.tuples(st.floats(0, 60), numbers), min_size=1, max_size=4).map(Schedule.through)
schedules = constants | keyframes
cells = st.one_of(
    st.builds(Cell, st.just("number"), numbers),
    st.builds(Cell, st.just("X"), numbers),
    st.sampled_from([Cell("R"), Cell("U")]),
)
block_weights = st.sampled_from(sorted(LAYOUTS)).flatmap(
    lambda count: st.lists(cells, min_size=count, max_size=count).map(lambda found: BlockWeights(tuple(found)))
)
words = st.sampled_from(["", "attn1", "NOT ff proj", "to_k to_v"])
rules = st.builds(ElementRule, st.sampled_from(["", "IN05-OUT05", "NOT BASE", "D00-D18 OUT"]), words, numbers)
steps = st.sampled_from([(None, None), (3, None), (None, 9), (3, 9)])
names = st.text(st.characters(exclude_characters=":>", exclude_categories=["C", "Z"]), min_size=1, max_size=12)


@given(
    name=names,
    first=st.tuples(schedules, schedules, schedules),
    hires=st.none() | st.tuples(schedules, schedules, schedules),
    dyn=st.none() | st.integers(1, 400),
    weights=st.none() | st.sampled_from(["MIDD", "ALL0.5", "my own"]) | block_weights,
    elements=st.none() | st.just("ATTNDEEPOFF") | st.lists(rules, min_size=1, max_size=3).map(tuple),
    window=steps,
    x=numbers,
)
def test_tag_to_text_to_tag(name, first, hires, dyn, weights, elements, window, x) -> None:
    hires = hires or (first[0], first[2], first[1])
    tag = Tag.of(
        name, *first, hrte=hires[0], hrte2=hires[1], hrunet=hires[2], dyn=dyn, weights=weights, elements=elements,
        start=window[0], stop=window[1], x=x,
    )  # fmt: skip
    rest, found = find_tags(tag.format())
    assert (rest, found) == ("", [tag])
    assert tag_of(tag.format()).format() == tag.format()


@given(st.text("<>lyco:=,@~;0.5-+XRUw bestr\n", max_size=40))
def test_any_text_gives_tags_or_errors(text: str) -> None:
    _, found = find_tags(f"<lyco:{text}>")
    assert all(isinstance(tag, Tag | TagError) for tag in found)


@given(st.lists(st.tuples(st.floats(0, 30), numbers), min_size=1, max_size=5), st.integers(1, 40))
def test_values_stay_between_the_keyframes(points, count: int) -> None:
    schedule = Schedule.through(points)
    values = [value for _, value in points]
    for step in range(count):
        assert min(values) - 1e-9 <= schedule.value(step, count) <= max(values) + 1e-9
