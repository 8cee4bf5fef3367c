"""Tags -> activations: whatever is wrong with one file, the others act."""

from pathlib import Path

import pytest

from lib_lycoris.errors import HostError
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.fitting import apply_fitting
from lib_lycoris.hosts.library.library import Library
from lib_lycoris.hosts.session import Session
from lib_lycoris.prompt import Presets, Tag, find_tags

GOOD, BAD = "demo-lora", "demo-loha"


@pytest.fixture(scope="module")
def host() -> EmbeddedHost:
    return EmbeddedHost.open(device="cpu")


def tags(text: str) -> list[Tag]:
    return [tag for tag in find_tags(text, ("lyco",))[1] if isinstance(tag, Tag)]


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), KeyError("q"), RecursionError(), MemoryError(), UnicodeError("half")])
def test_one_bad_file_never_costs_the_other_tags_their_effect(
    host: EmbeddedHost, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    session = Session(host.library, Presets.default)
    real = session.cache.get

    def get(path: Path, *rest: object) -> object:
        if path.stem == BAD:
            raise error
        return real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(session.cache, "get", get)
    plan = session.plan(tags(f"<lyco:{BAD}:1><lyco:{GOOD}:0.5>"), lambda: (host.patcher, None), 1)
    assert list(plan.networks) == [GOOD] and [a.network.name for a in plan.activations] == [GOOD]
    assert len(plan.problems) == 1 and plan.problems[0].startswith(f"{BAD} cannot be used: ")


def test_a_network_that_fails_while_it_is_applied_is_left_out_with_a_sentence(host: EmbeddedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Session(host.library, Presets.default).plan(tags(f"<lyco:{BAD}><lyco:{GOOD}>"), lambda: (host.patcher, None), 1)
    real = host.patcher.apply

    def apply(activations: list, mode: str = "auto") -> object:
        if any(a.network.name == BAD for a in activations):
            raise RuntimeError("out of memory")
        return real(activations, mode)

    monkeypatch.setattr(host.patcher, "apply", apply)
    report = apply_fitting(host.patcher, plan.activations)
    assert [item.name for item in report.networks] == [GOOD]
    assert report.notes == [f"{BAD} cannot be applied: out of memory"]
    host.patcher.restore()


def test_without_a_model_every_tag_says_so(host: EmbeddedHost) -> None:
    def no_model() -> tuple:
        raise HostError("no model is loaded")

    plan = Session(Library([]), Presets.default).plan(tags("<lyco:a><lyco:b>"), no_model, 1)
    assert plan.activations == [] and plan.problems == ["no model is loaded"] * 2


def test_the_digest_follows_what_the_text_encoders_see(host: EmbeddedHost) -> None:
    session = Session(host.library, Presets.default)
    one, same, other = (session.plan(tags(f"<lyco:{GOOD}:{s}>"), lambda: (host.patcher, None), 1).digest for s in ("0.5", "0.50", "0.6"))
    assert one == same != other
