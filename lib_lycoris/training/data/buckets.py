"""Aspect buckets: sizes of about one area, and which of them an image is trained in."""

from __future__ import annotations

from math import inf, sqrt

from ...errors import ToolError
from ...records import dataclass
from .subset import Dataset

Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class Fit:
    """How an image goes into a bucket: resized to cover it, then cut."""

    bucket: Size
    resized: Size


def bucket_sizes(resolution: Size, shortest: int, longest: int, step: int) -> list[Size]:
    """Return all buckets: sides in steps from the shortest to the longest, with no more area than the resolution's."""
    area = resolution[0] * resolution[1]
    square = int(sqrt(area) // step) * step
    found = {(square, square)} if square else set()
    for width in range(shortest, longest + 1, step):
        height = min(longest, int(area // width // step) * step)
        if height >= shortest:
            found |= {(width, height), (height, width)}
    return sorted(found)


def fit(size: Size, data: Dataset) -> Fit:
    """Return the bucket of an image of this size and what it is resized to before it is cut. Raises ToolError."""
    if not data.enable_bucket:
        return Fit(data.resolution, covering(size, data.resolution))
    if data.bucket_no_upscale:
        return _not_enlarged(size, data)
    sizes = _sizes(data)
    ratio = size[0] / size[1]
    if size in sizes:
        return Fit(size, size)
    bucket = min(sizes, key=lambda one: (abs(one[0] / one[1] - ratio), one))
    return Fit(bucket, covering(size, bucket))


def covering(size: Size, bucket: Size) -> Size:
    """Return the size of the same shape that just covers a bucket."""
    if size[0] * bucket[1] > bucket[0] * size[1]:  # wider than the bucket: the height decides
        return max(bucket[0], _rounded(size[0] * bucket[1] / size[1])), bucket[1]
    return bucket[0], max(bucket[1], _rounded(size[1] * bucket[0] / size[0]))


def _sizes(data: Dataset) -> list[Size]:
    shortest = data.min_bucket_reso or min(256, min(data.resolution) // 2 // data.bucket_reso_steps * data.bucket_reso_steps)
    shortest = max(shortest, data.bucket_reso_steps)
    sizes = bucket_sizes(data.resolution, shortest, data.max_bucket_reso, data.bucket_reso_steps)
    if not sizes or data.bucket_reso_steps % 8:
        raise ToolError(
            f"no bucket of {data.resolution[0]}x{data.resolution[1]} pixels has sides in steps of {data.bucket_reso_steps}; "
            "give a smaller --bucket_reso_steps, a multiple of 8"
        )
    return sizes


def _not_enlarged(size: Size, data: Dataset) -> Fit:
    """Shrink an image to the resolution's area if it has more, and cut its sides down to steps."""
    area, step = data.resolution[0] * data.resolution[1], data.bucket_reso_steps
    resized = size if size[0] * size[1] <= area else _shrunk(size[0] / size[1], area, step)
    bucket = (resized[0] // step * step, resized[1] // step * step)
    if not all(bucket):
        raise ToolError(f"an image of {size[0]}x{size[1]} pixels is smaller than a step of {step}; leave --bucket_no_upscale out")
    return Fit(bucket, resized)


def _shrunk(ratio: float, area: int, step: int) -> Size:
    """Return a size of an area with one side in steps, so that nothing of it is cut: the side that leaves less of the other to cut."""
    width, height = _in_steps(sqrt(area * ratio), step), _in_steps(sqrt(area / ratio), step)
    by_width, by_height = (width, _in_steps(width / ratio, step)), (_in_steps(height * ratio, step), height)
    if _apart(by_width, ratio) < _apart(by_height, ratio):
        return width, _rounded(width / ratio)
    return _rounded(height * ratio), height


def _rounded(side: float) -> int:
    """Round as sd-scripts does: a half is rounded up."""
    return int(side + 0.5)


def _in_steps(side: float, step: int) -> int:
    return _rounded(side) // step * step


def _apart(size: Size, ratio: float) -> float:
    return abs(size[0] / size[1] - ratio) if all(size) else inf
