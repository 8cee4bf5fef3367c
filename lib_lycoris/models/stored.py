"""What the stored tensors of one module of a file tell of its layer's weight."""

from __future__ import annotations

from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]  # suffix -> shape
Size = tuple[int | None, int | None]  # rows, columns; None: the tensors do not tell

_ROWS = ("lora_up.weight", "lora_B.weight", "p_layer.weight", "hada_w1_a", "diff", "set_weight", "w_norm", "dora_scale", "diff_b", "b_norm")
_COLUMNS = ("lora_down.weight", "lora_A.weight", "q_layer.weight", "hada_w1_b", "diff", "set_weight")


def layer_size(shapes: Shapes) -> Size:
    """Return the rows and columns of the weight that a module's tensors are for; kernels do not count, unless they are flattened."""
    if "hada_t1" in shapes:
        return _axis(shapes, "hada_w1_a", 1), _axis(shapes, "hada_w1_b", 1)
    first, second = _kronecker(shapes, 1), _kronecker(shapes, 2)
    if first and second:
        return first[0] * second[0], first[1] * second[1]
    rows = next((shapes[name][0] for name in _ROWS if shapes.get(name) and (name != "dora_scale" or _tall(shapes[name]))), None)
    columns = next((shapes[name][1] for name in _COLUMNS if len(shapes.get(name, ())) >= 2), None)
    if columns is None and len(a1 := shapes.get("a1.weight", ())) >= 2:
        columns = max(a1[:2])
    return rows, columns


def layer_shape(shapes: Shapes) -> tuple[int, ...] | None:
    """Return the shape of the weight that a module's tensors are for, as far as they tell it; None where they do not."""
    whole = next((shapes[name] for name in ("diff", "set_weight", "w_norm") if name in shapes), None)
    if whole is not None:
        return whole
    rows, columns = layer_size(shapes)
    if rows is None:
        return None
    if columns is None:
        return (rows,) if shapes.keys() <= {"diff_b", "b_norm"} else None
    kernels = (shapes[name][2:] for name in ("lora_mid.weight", "hada_t1", "lokr_t2", "lora_down.weight", "lokr_w2") if name in shapes)
    return (rows, columns, *next((kernel for kernel in kernels if kernel), ()))


def _axis(shapes: Shapes, name: str, axis: int) -> int | None:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis else None


def _tall(shape: tuple[int, ...]) -> bool:
    """Tell whether a magnitude has one number a row; others have one a column."""
    return len(shape) < 2 or shape[0] > 1


def _kronecker(shapes: Shapes, number: int) -> tuple[int, int] | None:
    """Return the first two axes of one factor of a Kronecker product, which may be a product itself."""
    whole = shapes.get(f"lokr_w{number}", ())
    if len(whole) >= 2:
        return whole[0], whole[1]
    a, b = shapes.get(f"lokr_w{number}_a", ()), shapes.get(f"lokr_w{number}_b", ())
    if len(a) < 2 or len(b) < 2:
        return None
    return (a[1] if f"lokr_t{number}" in shapes else a[0]), b[1]
