"""Lift features of a raster to points or voxels: nearest pixel or bilinear."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.ops import native
from fusion3d.ops.csr import accumulation_dtype, check_float, check_index, check_int64, check_same, sum_by_index

_MODES = ("nearest", "bilinear")


def lift(
    raster: Float[Tensor, "chips channels height width"],
    chip: Int64[Tensor, " points"],
    position: Float[Tensor, "points 2"],
    mode: Literal["nearest", "bilinear"] = "bilinear",
) -> Float[Tensor, "points channels"]:
    """Raster features at positions in pixels; positions outside take the value at the edge.

    Parameters
    ----------
    raster : [B, C, H, W]; gradients flow to it alone
    chip : [N], which of the B rasters
    position : [N, 2] row and column in pixels from the outer corner of pixel (0, 0); pixel (i, j) has its centre at
        (i + 0.5, j + 0.5) and holds the half-open square from (i, j) to (i + 1, j + 1)
    mode : the pixel that holds the position, or bilinear between the four nearest centres

    Returns
    -------
    [N, C], dtype of `raster`

    Raises
    ------
    ConfigError
        A dtype, shape or device does not fit, a chip or the raster has no pixel for a point, or a position is not finite.
    """
    if mode not in _MODES:
        raise ConfigError(f"mode must be one of {', '.join(_MODES)}, not {mode!r}")
    check_float("raster", raster, 4)
    check_float("position", position, 2)
    check_int64("chip", chip)
    check_same("chip", chip, "raster", raster, dtype=False)
    check_same("position", position, "raster", raster, dtype=False)
    if position.shape != (chip.shape[0], 2):
        raise ConfigError(f"position must have shape [{chip.shape[0]}, 2] like chip, not {tuple(position.shape)}")
    return native.run(_lift, raster, chip, position.detach(), mode)


def lift_reference(raster: Tensor, chip: Tensor, position: Tensor, mode: str) -> Tensor:
    """Weighted sum of one or four pixels, read as rows of the raster in channels-last order."""
    chips, channels, height, width = raster.shape
    check_index("chip", chip, chips)
    if chip.numel() and not height * width:
        raise ConfigError(f"a raster of {height} x {width} pixels has nothing to lift")
    if not bool(position.isfinite().all()):
        raise ConfigError("position holds values that are not finite")
    pixels = raster.permute(0, 2, 3, 1).reshape(chips * height * width, channels)
    dtype = accumulation_dtype(raster.dtype)
    lifted = torch.zeros(chip.numel(), channels, dtype=dtype, device=raster.device)
    for pixel, weight in _corners(chip, position, height, width, mode):
        lifted += pixels.index_select(0, pixel).to(dtype) * weight.to(dtype).unsqueeze(1)
    return lifted.to(raster.dtype)


def lift_backward_reference(grad: Tensor, chip: Tensor, position: Tensor, shape: list[int], mode: str) -> Tensor:
    """Gradient of the raster: each point adds to the pixels it was read from."""
    chips, channels, height, width = shape
    dtype = accumulation_dtype(grad.dtype)
    corners = list(_corners(chip, position, height, width, mode)) if chip.numel() else []
    pixels = torch.zeros(chips * height * width, channels, dtype=dtype, device=grad.device)
    for pixel, weight in corners:
        pixels += sum_by_index(grad.to(dtype) * weight.to(dtype).unsqueeze(1), pixel, pixels.shape[0])
    return pixels.to(grad.dtype).view(chips, height, width, channels).permute(0, 3, 1, 2).contiguous()


def _corners(chip: Tensor, position: Tensor, height: int, width: int, mode: str) -> list[tuple[Tensor, Tensor]]:
    """Row in the channels-last raster and weight of each pixel that a point reads."""
    position = position.to(torch.float64)  # row 40,000.3 has no float32 neighbour closer than 0.004
    if mode == "nearest":
        row, col = _held(position.floor(), height, width)
        return [(_flat(chip, row, col, height, width), torch.ones_like(position[:, 0]))]
    corner = (position - 0.5).floor()
    down, right = (position - 0.5 - corner).unbind(1)
    top, left = _held(corner, height, width)
    return [
        (_flat(chip, top + i, left + j, height, width), (down if i else 1 - down) * (right if j else 1 - right))
        for i in (0, 1)
        for j in (0, 1)
    ]


def _held(pixel: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows and columns as int64, held near the raster while they are numbers that an integer may not hold."""
    row, col = pixel.unbind(1)
    return row.clamp(-1, height).to(torch.int64), col.clamp(-1, width).to(torch.int64)


def _flat(chip: Tensor, row: Tensor, col: Tensor, height: int, width: int) -> Tensor:
    return (chip * height + row.clamp(0, height - 1)) * width + col.clamp(0, width - 1)


_lift = torch.library.custom_op(
    "fusion3d::lift",
    lift_reference,
    mutates_args=(),
    schema="(Tensor raster, Tensor chip, Tensor position, str mode) -> Tensor",
)
_lift_backward = torch.library.custom_op(
    "fusion3d::lift_backward",
    lift_backward_reference,
    mutates_args=(),
    schema="(Tensor grad, Tensor chip, Tensor position, SymInt[] shape, str mode) -> Tensor",
)


@_lift.register_fake
def _(raster: Tensor, chip: Tensor, position: Tensor, mode: str) -> Tensor:
    return raster.new_empty(chip.shape[0], raster.shape[1])


@_lift_backward.register_fake
def _(grad: Tensor, chip: Tensor, position: Tensor, shape: list[int], mode: str) -> Tensor:
    return grad.new_empty(shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    raster, chip, position, mode = inputs
    ctx.save_for_backward(chip, position)
    ctx.shape, ctx.mode = raster.shape, mode


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _lift_backward(grad.contiguous(), *ctx.saved_tensors, ctx.shape, ctx.mode), None, None, None


_lift.register_autograd(_gradient, setup_context=_save)
