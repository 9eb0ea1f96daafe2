"""MLX's functions on the device of the thread that calls them, said in every call.

MLX has one default device for the whole process, which ``mx.stream`` and ``mx.set_default_device`` move for everybody:
two models on different devices, or a model and the program that hosts it, would move each other. So nothing here
relies on it. A thread works on the device that it stands ``on``, and on MLX's default where it stands on none.
Operators and indexing of arrays take no device, which is why there is a function for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import local
from typing import Any

import mlx.core as mx

Place = mx.DeviceType | mx.Stream
"""A device, or one of several streams of work on it."""

_here = local()


@contextmanager
def on(device: Place) -> Iterator[None]:
    """The calling thread works on ``device``; MLX's own default stays where it is."""
    before, _here.device = device_here(), device
    try:
        yield
    finally:
        _here.device = before


def device_here() -> Place | None:
    """What the calling thread works on; None where that is MLX's default."""
    return getattr(_here, "device", None)


def is_cpu() -> bool:
    """Whether the calling thread works on the CPU."""
    place = device_here()
    if isinstance(place, mx.Stream):
        return place.device == mx.Device(mx.cpu)
    return (mx.default_device() if place is None else mx.Device(place)) == mx.Device(mx.cpu)


def streams(count: int) -> list[mx.Stream]:
    """``count`` streams of work on the CPU that run side by side; a thread makes its own once, and keeps them."""
    own: list[mx.Stream] = _here.__dict__.setdefault("streams", [])
    own.extend(mx.new_stream(mx.cpu) for _ in range(len(own), count))
    return own[:count]


def _explicit(function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, stream=device_here(), **options)

    return called


add = _explicit(mx.add)
arange = _explicit(mx.arange)
concatenate = _explicit(mx.concatenate)
contiguous = _explicit(mx.contiguous)
cos = _explicit(mx.cos)
dequantize = _explicit(mx.dequantize)
divide = _explicit(mx.divide)
exp = _explicit(mx.exp)
expand_dims = _explicit(mx.expand_dims)
eye = _explicit(mx.eye)
isfinite = _explicit(mx.isfinite)
less_equal = _explicit(mx.less_equal)
matmul = _explicit(mx.matmul)
maximum = _explicit(mx.max)
mean = _explicit(mx.mean)
multiply = _explicit(mx.multiply)
ones = _explicit(mx.ones)
power = _explicit(mx.power)
quantize = _explicit(mx.quantize)
quantized_matmul = _explicit(mx.quantized_matmul)
reshape = _explicit(mx.reshape)
rsqrt = _explicit(mx.rsqrt)
sigmoid = _explicit(mx.sigmoid)
sin = _explicit(mx.sin)
split = _explicit(mx.split)
square = _explicit(mx.square)
squeeze = _explicit(mx.squeeze)
stop_gradient = _explicit(mx.stop_gradient)
subtract = _explicit(mx.subtract)
total = _explicit(mx.sum)
swapaxes = _explicit(mx.swapaxes)
transpose = _explicit(mx.transpose)
view = _explicit(mx.view)
where = _explicit(mx.where)


def rms_norm(*arguments: Any, **options: Any) -> mx.array:
    """MLX's fused norm."""
    return mx.fast.rms_norm(*arguments, stream=device_here(), **options)


def rope(*arguments: Any, **options: Any) -> mx.array:
    """MLX's fused rotation."""
    return mx.fast.rope(*arguments, stream=device_here(), **options)


def scaled_dot_product_attention(*arguments: Any, **options: Any) -> mx.array:
    """MLX's fused attention."""
    return mx.fast.scaled_dot_product_attention(*arguments, stream=device_here(), **options)


def cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """``array`` in ``dtype``."""
    return array.astype(dtype, stream=device_here())


def rows(array: mx.array, ids: mx.array) -> mx.array:
    """The rows ``ids`` of ``array``."""
    return mx.take(array, ids, axis=0, stream=device_here())


def first(array: mx.array, count: int, axis: int) -> mx.array:
    """The first ``count`` entries of ``array`` along ``axis``."""
    return array if count == array.shape[axis] else mx.split(array, [count], axis=axis, stream=device_here())[0]


def finite(array: mx.array) -> bool:
    """Whether no entry is NaN or infinite."""
    return bool(mx.all(isfinite(array), stream=device_here()).item())


def load(path: str) -> dict[str, mx.array]:
    """The arrays of a safetensors file, read when they are evaluated; files are read by the CPU."""
    arrays: dict[str, mx.array] = mx.load(path, format="safetensors", stream=mx.cpu)  # type: ignore[assignment]
    return arrays


def parts(array: mx.array, ends: Sequence[int]) -> list[mx.array]:
    """``array`` cut along its first axis at ``ends``, the last of which is its length."""
    cut: list[mx.array] = split(array, list(ends[:-1])) if len(ends) > 1 else [array]
    return cut


def pulled_back(function: Callable[..., mx.array], places: Sequence[mx.array], slope: mx.array) -> list[mx.array]:
    """The slopes at ``places`` that ``slope`` at the result of ``function`` comes from.

    MLX copies a place to the device of what computes it, and to its default one where it lies there computed.
    """
    anchored = [multiply(place, mx.array(1, place.dtype)) for place in places]
    return mx.vjp(lambda *arguments: [function(*arguments)], anchored, [slope])[1]
