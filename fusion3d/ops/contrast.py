"""Exact two-way InfoNCE between two views of many columns, in tiles: memory linear in the number of columns.

With unit embeddings a_i and b_i of column i, temperature t, and X_i the other columns closer to i than the exclusion radius::

    L = -1/(2N) sum_i [ log( exp(a_i.b_i/t) / sum_{j not in X_i} exp(a_i.b_j/t) )
                      + log( exp(a_i.b_i/t) / sum_{j not in X_i} exp(b_i.a_j/t) ) ]

(InfoNCE: van den Oord et al. 2018, arXiv 1807.03748; both ways as in CLIP: Radford et al. 2021, arXiv 2103.00020.) The operator
is the pair of log-sum-exps; the positive term and the temperature are plain torch around it. Backward computes each tile of
similarities again, so none is ever kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.ops import native
from fusion3d.ops.csr import accumulation_dtype, check_float, check_int64, check_same

TILE = 2048


def contrast(
    a: Float[Tensor, "rows channels"],
    b: Float[Tensor, "rows channels"],
    temperature: Float[Tensor, ""] | float,
    position: Float[Tensor, "rows 2"] | None = None,
    scene: Int64[Tensor, " rows"] | None = None,
    exclusion_radius: float = 0.0,
    tile: int = TILE,
) -> Float[Tensor, ""]:
    """Mean of `contrast_rows`; 0 when there is no row. Same parameters and errors."""
    rows = contrast_rows(a, b, temperature, position, scene, exclusion_radius, tile)
    return rows.sum() / max(1, rows.shape[0])


def contrast_rows(
    a: Float[Tensor, "rows channels"],
    b: Float[Tensor, "rows channels"],
    temperature: Float[Tensor, ""] | float,
    position: Float[Tensor, "rows 2"] | None = None,
    scene: Int64[Tensor, " rows"] | None = None,
    exclusion_radius: float = 0.0,
    tile: int = TILE,
) -> Float[Tensor, " rows"]:
    """Two-way InfoNCE of each row: half the sum of its loss as a query from a to b and from b to a.

    Parameters
    ----------
    a, b : [N, D] embeddings of the same columns, normalised by the caller; row i of one is the positive of row i of the other
    temperature : positive; gradients flow to it when it is a tensor
    position : [N, 2] metres, needed with an exclusion radius; rows of one scene closer than `exclusion_radius` to each other are
        left out of each other's negatives. A row is never left out of its own sum.
    scene : [N], which rows share a coordinate frame; all do by default
    exclusion_radius : metres, 0 excludes nothing
    tile : side of the squares of similarities that are held at a time; changes memory, not the result

    Returns
    -------
    [N], float32 for half types, else the dtype of `a`

    Raises
    ------
    ConfigError
        A dtype, shape or device does not fit, a temperature given as a number or the tile is not positive, or an exclusion
        radius comes without positions.
    """
    check_float("a", a, 2)
    check_same("b", b, "a", a)
    if a.shape != b.shape:
        raise ConfigError(f"a and b must have the same shape, not {tuple(a.shape)} and {tuple(b.shape)}")
    if tile < 1:
        raise ConfigError(f"tile must be at least 1, not {tile}")
    if isinstance(temperature, Tensor) and temperature.numel() != 1:
        raise ConfigError(f"temperature must be one number, not a tensor of shape {tuple(temperature.shape)}")
    if not isinstance(temperature, Tensor) and not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature must be positive, not {temperature}")
    if not (math.isfinite(exclusion_radius) and exclusion_radius >= 0):
        raise ConfigError(f"exclusion_radius must be a number of metres from 0 up, not {exclusion_radius}")
    if exclusion_radius == 0:
        position = scene = None
    _check_places(a, position, scene, exclusion_radius)
    dtype = accumulation_dtype(a.dtype)
    query, key = a.to(dtype) / (temperature.to(dtype) if isinstance(temperature, Tensor) else temperature), b.to(dtype)
    forth, back = native.run(_contrast, query, key, position, scene, exclusion_radius, tile)
    return (forth + back) / 2 - (query * key).sum(1)


def _check_places(a: Tensor, position: Tensor | None, scene: Tensor | None, radius: float) -> None:
    if position is None:
        if radius > 0:
            raise ConfigError(f"an exclusion radius of {radius} m needs the rows' positions")
        return
    check_float("position", position, 2)
    check_same("position", position, "a", a, dtype=False)
    if position.shape != (a.shape[0], 2):
        raise ConfigError(f"position must have shape [{a.shape[0]}, 2] like the rows, not {tuple(position.shape)}")
    if scene is not None:
        check_int64("scene", scene)
        check_same("scene", scene, "a", a, dtype=False)
        if scene.shape != a.shape[:1]:
            raise ConfigError(f"scene names {scene.shape[0]} rows but there are {a.shape[0]}")


def contrast_reference(
    query: Tensor, key: Tensor, position: Tensor | None, scene: Tensor | None, radius: float, tile: int
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of the kept similarities ``query @ key.T`` over each row and over each column, [N] and [N]."""
    forth, back = (query.new_full(query.shape[:1], -torch.inf) for _ in range(2))
    with torch.autocast(query.device.type, enabled=False):  # half-precision similarities at a low temperature are noise
        for i, j, similarity in _tiles(query, key, position, scene, radius, tile):
            forth[i] = torch.logaddexp(forth[i], similarity.logsumexp(1))
            back[j] = torch.logaddexp(back[j], similarity.logsumexp(0))
    return forth, back


def contrast_backward_reference(
    grad_forth: Tensor,
    grad_back: Tensor,
    forth: Tensor,
    back: Tensor,
    query: Tensor,
    key: Tensor,
    position: Tensor | None,
    scene: Tensor | None,
    radius: float,
    tile: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of query and key; a similarity's is its two softmax probabilities times the upstream gradients."""
    grad_query, grad_key = query.new_zeros(query.shape), key.new_zeros(key.shape)
    with torch.autocast(query.device.type, enabled=False):
        for i, j, similarity in _tiles(query, key, position, scene, radius, tile):
            probability = (similarity - forth[i, None]).exp_().mul_(grad_forth[i, None])
            probability += similarity.sub_(back[j]).exp_().mul_(grad_back[j])
            grad_query[i] += probability @ key[j]
            grad_key[j] += probability.T @ query[i]
    return grad_query, grad_key


def _tiles(
    query: Tensor, key: Tensor, position: Tensor | None, scene: Tensor | None, radius: float, tile: int
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Squares of the similarity matrix with -inf where a pair is excluded."""
    starts = range(0, query.shape[0], tile)
    if position is not None:  # metres are lost in a half type
        position = position.to(accumulation_dtype(position.dtype))
    for first in starts:
        i = slice(first, first + tile)
        for second in starts:
            j = slice(second, second + tile)
            similarity = query[i] @ key[j].T
            if position is not None:
                excluded = _near(position[i], position[j], radius)
                if scene is not None:
                    excluded &= scene[i, None] == scene[j]
                if first == second:
                    excluded.fill_diagonal_(False)
                similarity.masked_fill_(excluded, -torch.inf)
            yield i, j, similarity


def _near(places: Tensor, others: Tensor, radius: float) -> Tensor:
    # differences first: squares of map coordinates would lose the metres
    east, south = (places[:, None, axis] - others[:, axis] for axis in (0, 1))
    return east.square().add_(south.square()) < radius * radius


_contrast = torch.library.custom_op(
    "fusion3d::contrast",
    contrast_reference,
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor? position, Tensor? scene, float radius, int tile) -> (Tensor forth, Tensor back)",
)
_contrast_backward = torch.library.custom_op(
    "fusion3d::contrast_backward",
    contrast_backward_reference,
    mutates_args=(),
    schema="(Tensor grad_forth, Tensor grad_back, Tensor forth, Tensor back, Tensor query, Tensor key, Tensor? position,"
    " Tensor? scene, float radius, int tile) -> (Tensor, Tensor)",
)


@_contrast.register_fake
def _(
    query: Tensor, key: Tensor, position: Tensor | None, scene: Tensor | None, radius: float, tile: int
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape[0]), query.new_empty(query.shape[0])


@_contrast_backward.register_fake
def _(
    grad_forth: Tensor,
    grad_back: Tensor,
    forth: Tensor,
    back: Tensor,
    query: Tensor,
    key: Tensor,
    position: Tensor | None,
    scene: Tensor | None,
    radius: float,
    tile: int,
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    query, key, position, scene, ctx.radius, ctx.tile = inputs
    ctx.save_for_backward(*output, query, key, position, scene)


def _gradient(ctx: Any, grad_forth: Tensor, grad_back: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _contrast_backward(grad_forth.contiguous(), grad_back.contiguous(), *ctx.saved_tensors, ctx.radius, ctx.tile)
    return *gradients, None, None, None, None


_contrast.register_autograd(_gradient, setup_context=_save)
