"""Buckets, captions, noise and losses against what they are by definition."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log, sqrt
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_lycoris.hosts.embedded.shapes import SCHEDULE
from lib_lycoris.training.data.buckets import Fit, Size, bucket_sizes, covering, fit
from lib_lycoris.training.data.captions import caption_at
from lib_lycoris.training.data.order import share_of
from lib_lycoris.training.data.subset import Dataset, Subset
from lib_lycoris.training.models.diffusion import Diffusion
from lib_lycoris.training.reporting.spectra import effective_rank, error_curve, hints, smaller_dim
from lib_lycoris.training.steps.draws import normal
from lib_lycoris.training.steps.loss import elementwise, huber_c, losses, weights
from lib_lycoris.training.steps.noise import noise_of, steps_of

PLAIN = {
    "min_snr_gamma": None, "debiased_estimation_loss": False, "scale_v_pred_loss_like_noise_pred": False, "loss_type": "l2",
    "huber_schedule": "snr", "huber_c": 0.1, "huber_scale": 1.0, "noise_offset": None, "adaptive_noise_scale": None,
    "multires_noise_iterations": None, "multires_noise_discount": 0.3, "ip_noise_gamma": None, "min_timestep": 0, "max_timestep": 1000,
    "seed": 1,
}  # fmt: skip
STEPS = torch.tensor([0, 10, 500, 999])
SUBSET = Subset(Path())


def settings(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(**{**PLAIN, **changes})


def alphas() -> torch.Tensor:
    """Return the share of the signal at each step: the product of 1 - beta, whose roots are evenly spaced."""
    betas = torch.linspace(SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def test_the_signal_to_noise_ratio_is_the_products() -> None:
    a = alphas()[STEPS]
    torch.testing.assert_close(Diffusion(SCHEDULE, False, False).snr(STEPS).double(), a / (1 - a), rtol=1e-4, atol=0)


def test_with_zero_terminal_snr_the_last_step_is_pure_noise() -> None:
    process = Diffusion(SCHEDULE, True, True)
    latents, noise = normal((1, 4, 8, 8), "a"), normal((1, 4, 8, 8), "b")
    last = torch.tensor([999])
    assert float(process.snr(last)) < 1e-6
    torch.testing.assert_close(process.noisy(latents, noise, last), noise, rtol=0, atol=1e-3)
    torch.testing.assert_close(process.wanted(latents, noise, last), -latents, rtol=0, atol=1e-3)


def test_a_velocity_is_the_noise_turned_by_a_right_angle() -> None:
    process = Diffusion(SCHEDULE, False, True)
    latents, noise = normal((4, 4, 8, 8), "a"), normal((4, 4, 8, 8), "b")
    a = alphas()[STEPS].float().view(-1, 1, 1, 1)
    torch.testing.assert_close(process.wanted(latents, noise, STEPS), a.sqrt() * noise - (1 - a).sqrt() * latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(process.noisy(latents, noise, STEPS), a.sqrt() * latents + (1 - a).sqrt() * noise, rtol=1e-4, atol=1e-4)
    assert Diffusion(SCHEDULE, False, False).wanted(latents, noise, STEPS) is noise


@pytest.mark.parametrize("velocity", [False, True])
def test_min_snr(velocity: bool) -> None:
    process = Diffusion(SCHEDULE, False, velocity)
    snr = (alphas() / (1 - alphas()))[STEPS]
    wanted = snr.clamp(max=5) / (snr + 1 if velocity else snr)
    torch.testing.assert_close(weights(settings(min_snr_gamma=5.0), process, STEPS).double(), wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize("velocity", [False, True])
def test_the_debiased_loss(velocity: bool) -> None:
    process = Diffusion(SCHEDULE, False, velocity)
    snr = (alphas() / (1 - alphas()))[STEPS].clamp(max=1000)
    wanted = 1 / (snr + 1) if velocity else snr.rsqrt()
    torch.testing.assert_close(weights(settings(debiased_estimation_loss=True), process, STEPS).double(), wanted, rtol=1e-4, atol=0)


def test_a_velocitys_loss_weighed_as_a_noises() -> None:
    snr = (alphas() / (1 - alphas()))[STEPS]
    asked = settings(scale_v_pred_loss_like_noise_pred=True)
    torch.testing.assert_close(weights(asked, Diffusion(SCHEDULE, False, True), STEPS).double(), snr / (snr + 1), rtol=1e-4, atol=0)
    assert torch.equal(weights(asked, Diffusion(SCHEDULE, False, False), STEPS), torch.ones(4))


def test_hubers_loss_and_its_c() -> None:
    process = Diffusion(SCHEDULE, False, False)
    constant = settings(loss_type="huber", huber_schedule="constant", huber_c=0.2)
    answer, wanted = torch.full((4, 1, 1, 1), 3.0), torch.full((4, 1, 1, 1), 1.0)
    expected = 2 * 0.2 * (sqrt(4 + 0.04) - 0.2)
    assert elementwise(constant, process, answer, wanted, STEPS).flatten().tolist() == pytest.approx([expected] * 4)
    smooth = settings(loss_type="smooth_l1", huber_schedule="constant", huber_c=0.2)
    assert float(elementwise(smooth, process, answer, wanted, STEPS)[0]) == pytest.approx(2 * (sqrt(4.04) - 0.2))
    exponential = huber_c(settings(huber_schedule="exponential"), process, STEPS)
    assert exponential.tolist() == pytest.approx([exp(log(0.1) * step / 1000) for step in STEPS.tolist()])
    snr = (alphas() / (1 - alphas()))[STEPS]
    torch.testing.assert_close(huber_c(settings(), process, STEPS).double(), 0.9 / (1 + snr.rsqrt()) ** 2 + 0.1, rtol=1e-4, atol=0)


def test_a_mask_takes_the_rest_out_of_the_loss() -> None:
    answer, wanted, mask = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), torch.tensor([[[[1.0, 0.0], [0.5, 0.0]]]])
    process = Diffusion(SCHEDULE, False, False)
    assert losses(settings(), process, answer, wanted, torch.tensor([500]), mask).tolist() == pytest.approx([1.5 / 4])
    assert losses(settings(), process, answer, wanted, torch.tensor([500]), None).tolist() == pytest.approx([1.0])


def test_every_image_draws_its_own_noise_whatever_batch_it_is_in() -> None:
    latents = torch.zeros(4, 4, 8, 8)
    for asked in (settings(), settings(noise_offset=0.1), settings(multires_noise_iterations=6)):
        whole = noise_of(asked, latents, 7, [0, 1, 2, 3])
        halves = torch.cat([noise_of(asked, latents[:2], 7, [0, 1]), noise_of(asked, latents[2:], 7, [2, 3])])
        assert torch.equal(whole, halves) and not torch.equal(whole[0], whole[1])
    drawn = [
        steps_of(settings(), Diffusion(SCHEDULE, False, False), (4, 8, 8), 7, places).tolist() for places in ([0, 1, 2, 3], [0, 1], [2, 3])
    ]
    assert drawn[0] == [*drawn[1], *drawn[2]]
    few = steps_of(settings(min_timestep=100, max_timestep=110), Diffusion(SCHEDULE, False, False), (4, 8, 8), 0, range(200))
    assert set(few.tolist()) == set(range(100, 110))


def test_an_offset_moves_each_channel_and_a_pyramid_keeps_the_spread() -> None:
    latents = torch.zeros(200, 4, 8, 8)
    plain, moved = (noise_of(settings(noise_offset=offset), latents, 1, range(200)) for offset in (None, 0.5))
    shift = moved - plain
    assert torch.allclose(shift, shift.mean((2, 3), keepdim=True).expand_as(shift), atol=1e-6)
    assert float(shift.mean((2, 3)).std()) == pytest.approx(0.5, rel=0.1)
    pyramid = noise_of(settings(multires_noise_iterations=6), latents, 1, range(200))
    assert pyramid.flatten(1).std(1).tolist() == pytest.approx([1.0] * 200, rel=1e-4)


@given(st.integers(1, 300), st.integers(1, 8))
def test_processes_share_a_batch_whole_and_once(count: int, processes: int) -> None:
    items = [object() for _ in range(count)]
    shares = [pair for process in range(processes) for pair in share_of(items, process, processes)]  # type: ignore[arg-type]
    assert shares == list(enumerate(items))


# ---- buckets


def test_the_buckets_of_512_are_those_of_the_trainer() -> None:
    sizes = bucket_sizes((512, 512), 256, 1024, 64)
    assert (512, 512) in sizes and (448, 576) in sizes and (256, 1024) in sizes and (320, 768) in sizes
    assert sizes == sorted({(height, width) for width, height in sizes})
    assert all(width * height <= 512 * 512 and not width % 64 and not height % 64 for width, height in sizes)


@given(st.integers(64, 3000), st.integers(64, 3000))
def test_an_image_covers_the_bucket_of_the_nearest_shape(width: int, height: int) -> None:
    data = Dataset((), (512, 512), 1)
    found = fit((width, height), data)
    ratio = width / height
    sizes = bucket_sizes((512, 512), 256, 1024, 64)
    if (width, height) not in sizes:
        assert abs(found.bucket[0] / found.bucket[1] - ratio) == min(abs(w / h - ratio) for w, h in sizes)
    assert found.resized[0] >= found.bucket[0] and found.resized[1] >= found.bucket[1]
    assert found.resized[0] == found.bucket[0] or found.resized[1] == found.bucket[1]
    small = fit((width, height), replace(data, bucket_no_upscale=True))
    assert small.resized[0] <= width and small.resized[1] <= height and small.bucket[0] * small.bucket[1] <= 512 * 512
    assert all(0 <= side - cut < 64 for side, cut in zip(small.resized, small.bucket))


@pytest.mark.parametrize(
    "size, enlarged, kept",
    [  # what sd-scripts' BucketManager (48d368f) says of the size: bucket, and what the image is resized to
        ((1408, 697), ((704, 320), (704, 349)), ((640, 320), (646, 320))),
        ((1000, 700), ((576, 448), (640, 448)), ((576, 384), (576, 403))),
        ((700, 1000), ((448, 576), (448, 640)), ((384, 576), (403, 576))),
        ((300, 200), ((640, 384), (640, 427)), ((256, 192), (300, 200))),
        ((3000, 800), ((960, 256), (960, 256)), ((960, 256), (960, 256))),
    ],
)
def test_images_go_where_the_trainer_puts_them(size: Size, enlarged: tuple[Size, Size], kept: tuple[Size, Size]) -> None:
    data = Dataset((), (512, 512), 1, min_bucket_reso=256)
    assert fit(size, data) == Fit(*enlarged) and fit(size, replace(data, bucket_no_upscale=True)) == Fit(*kept)


def test_without_buckets_every_image_is_cut_to_the_resolution() -> None:
    assert fit((900, 300), Dataset((), (512, 512), 1, enable_bucket=False)).resized == (1536, 512)
    assert covering((300, 900), (512, 512)) == (512, 1536)


# ---- captions


def test_a_caption_is_left_as_it_is_unless_something_is_asked_for() -> None:
    assert caption_at("a cat,  on a mat\nsecond line", SUBSET, 0, Random(1)) == "a cat,  on a mat"


def test_the_first_tags_stay_and_the_others_are_all_there() -> None:
    subset = replace(SUBSET, shuffle_caption=True, keep_tokens=2)
    seen = {caption_at("a, b, c, d, e", subset, 0, Random(seed)) for seed in range(200)}
    assert all(text.startswith("a, b, ") and sorted(text.split(", ")) == list("abcde") for text in seen)
    assert len(seen) == 6
    marked = replace(SUBSET, shuffle_caption=True, keep_tokens_separator="|||")
    assert {caption_at("a, b ||| c, d ||| e", marked, 0, Random(seed)) for seed in range(50)} == {"a, b, c, d, e", "a, b, d, c, e"}


def test_dropout_has_its_rates() -> None:
    count = 4000
    empty = sum(not caption_at("a", replace(SUBSET, caption_dropout_rate=0.25), 0, Random(seed)) for seed in range(count))
    assert empty / count == pytest.approx(0.25, abs=0.03)
    subset = replace(SUBSET, caption_tag_dropout_rate=0.25, keep_tokens=1)
    kept = [caption_at("a, b, c", subset, 0, Random(seed)).split(", ") for seed in range(count)]
    assert all(tags[0] == "a" for tags in kept)
    assert sum(len(tags) - 1 for tags in kept) / (2 * count) == pytest.approx(0.75, abs=0.03)
    often = replace(SUBSET, caption_dropout_every_n_epochs=2)
    assert [caption_at("a", often, epoch, Random(1)) for epoch in range(4)] == ["a", "", "a", ""]  # the second, the fourth, as sd-scripts


def test_words_around_a_caption_and_wildcards() -> None:
    assert caption_at("a cat", replace(SUBSET, trigger_word="sks"), 0, Random(1)) == "sks, a cat"
    assert caption_at("a cat", replace(SUBSET, caption_prefix="photo of", caption_suffix="4k"), 0, Random(1)) == "photo of a cat 4k"
    wild = replace(SUBSET, enable_wildcard=True)
    seen = {caption_at("a {cat|dog} {{x}}\nanother", wild, 0, Random(seed)) for seed in range(60)}
    assert seen == {"a cat {x}", "a dog {x}", "another"}
    joined = replace(SUBSET, secondary_separator=";;;", shuffle_caption=True)
    assert {caption_at("a;;;b, c", joined, 0, Random(seed)) for seed in range(30)} == {"a,b, c", "c, a,b"}


# ---- spectra


def test_effective_ranks_and_the_curve() -> None:
    assert effective_rank(torch.ones(7)) == pytest.approx(7) and effective_rank(torch.zeros(3)) == 0
    assert error_curve([torch.tensor([2.0, 1.0, 1.0, 0.0])]) == pytest.approx({"1": (2 / 6) ** 0.5, "2": (1 / 6) ** 0.5, "4": 0.0})


def test_what_spectra_advise() -> None:
    curve = {"1": 0.5, "2": 0.1, "4": 0.015, "8": 0.001, "16": 0.0}
    assert smaller_dim([3.0, 3.5], 16, curve) == 4
    assert smaller_dim([9.0, 9.0], 16, curve) is None and smaller_dim([1.5], 6, curve) is None
    said = hints({"IN01": 1.0, "IN02": 1.1, "M00": 0.0001, "OUT03": 30.0}, 16, curve, 4)
    assert said[0].startswith("M00 have hardly changed") and said[1].startswith("OUT03 changed more than 10 times")
    assert said[2] == "of 16 dims 4 keep all but 1.5% of the change: `resize --new_rank 4`"
    assert hints({"IN01": 1.0, "IN02": 1.1}, 16, curve, None) == []
