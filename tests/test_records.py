"""Frozen records are what the standard library's frozen dataclasses are."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field
from typing import Any

import pytest

from lib_lycoris import records


def made(dataclass: Callable[..., Any]) -> tuple[type, ...]:
    """Return classes of each kind that we have."""

    @dataclass(frozen=True)
    class Point:
        x: int
        y: tuple[int, ...] = ()
        note: str = field(default="", compare=False)
        hidden: list[int] = field(default_factory=list, repr=False, compare=False)

    @dataclass(frozen=True)
    class Named(Point):
        name: str = "a"

    @dataclass(frozen=True, eq=False, kw_only=True)
    class Base:
        first: int = 1

    @dataclass(frozen=True, eq=False, kw_only=True)
    class Derived(Base):
        second: int

    @dataclass(frozen=True)
    class Own:
        x: int

        def __eq__(self, other: object) -> bool:
            return True

        def __repr__(self) -> str:
            return "own"

    @dataclass(frozen=True)
    class Empty:
        pass

    return Point, Named, Derived, Own, Empty


OURS, THEIRS = made(records.dataclass), made(dataclasses.dataclass)
ARGUMENTS: list[tuple[int, list[Any], dict[str, Any]]] = [
    (0, [1], {}),
    (0, [1, (2, 3)], {"note": "n"}),
    (0, [2], {"hidden": [1]}),
    (1, [1], {}),
    (1, [1, (), "", [], "b"], {}),
    (2, [], {"second": 2}),
    (2, [], {"second": 2, "first": 3}),
    (3, [1], {}),
    (3, [2], {}),
    (4, [], {}),
]


def all_of(classes: tuple[type, ...]) -> list[Any]:
    return [classes[which](*args, **named) for which, args, named in ARGUMENTS]


def test_they_show_compare_and_hash_alike() -> None:
    ours, theirs = all_of(OURS), all_of(THEIRS)
    assert [repr(one) for one in ours] == [repr(one) for one in theirs]
    assert [[a == b for b in ours] for a in ours] == [[a == b for b in theirs] for a in theirs]
    for a, b in zip(ours, all_of(OURS)):
        assert (hash(a) == hash(b)) is (not isinstance(a, OURS[2])), "records that are equal have one hash, those without eq their own"
    assert ours[0] != (1, ()) and ours[0].__eq__(1) is NotImplemented


@pytest.mark.parametrize("classes", [OURS, THEIRS])
def test_they_refuse_to_change(classes: tuple[type, ...]) -> None:
    for one in all_of(classes):
        for name in (*(found.name for found in dataclasses.fields(one)), "unknown"):
            with pytest.raises(FrozenInstanceError, match=name):
                setattr(one, name, 5)
            with pytest.raises(FrozenInstanceError, match=name):
                delattr(one, name)


def test_they_are_dataclasses_to_the_standard_library() -> None:
    for one in all_of(OURS):
        assert dataclasses.is_dataclass(one) and copy.deepcopy(one) is not one
        if not isinstance(one, OURS[2]):
            assert copy.copy(one) == copy.deepcopy(one) == one
    point = OURS[1](1, name="b")
    other = dataclasses.replace(point, x=4)
    assert (other.x, other.name, point.x) == (4, "b", 1) and dataclasses.asdict(point)["name"] == "b"
    with pytest.raises(TypeError):
        OURS[2](3)
    with pytest.raises(TypeError):
        OURS[0]()


def test_others_than_frozen_ones_are_the_standard_librarys() -> None:
    @records.dataclass
    class Counter:
        count: int = 0

    one = Counter()
    one.count += 1
    assert one == Counter(1) and Counter.__hash__ is None


def test_records_of_the_package_go_through_a_pickle() -> None:
    from lib_lycoris.networks.reading.table import TensorInfo

    assert pickle.loads(pickle.dumps(TensorInfo("F16", (2, 3), 4))) == TensorInfo("F16", (2, 3), 4)
