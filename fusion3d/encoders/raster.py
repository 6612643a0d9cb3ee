"""One encoder for every raster sensor: optical, radar, hyperspectral, any number of bands, dates and any pixel size.

::

    pixels  --3x3 kernels written by the bands-->  tokens, a few a column  --convolutions-->  mean and max of each cell
    cells of each date + date  --attention over the dates that are there-->  cells  --convolutions-->  features

Masks are carried all the way: invalid pixels, absent bands, cells beyond the chip and padding dates weigh nothing.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fusion3d.data.observation import ChipBatch, RasterObservation
from fusion3d.encoders.bands import BandKernels
from fusion3d.encoders.dates import DateFeatures
from fusion3d.encoders.output import CellGrid, ColumnEmbedding, EmbeddingHead
from fusion3d.encoders.registry import Encoder, register, sensor_missing
from fusion3d.errors import ConfigError

_TOKENS = 4
"""Tokens that a column's side keeps at least, where it has as many pixels."""

_PIECE = 1 << 20
"""Pixels encoded at a time; larger inputs are encoded in pieces and again in the backward pass, so that one piece is held."""

_CELL_CONVOLUTIONS = 2


class MaskedConvolution(nn.Module):
    """3 x 3 residual convolution over what is there: taps outside the mask or the image are left out and made up for."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "images channels rows cols"], seen: Bool[Tensor, "images 1 rows cols"]
    ) -> Float[Tensor, "images channels rows cols"]:
        inside = functional.gelu(self.norm(x.movedim(1, -1))).movedim(-1, 1) * seen
        taps = 9.0 / _neighbours(seen.to(x.dtype)).clamp(min=1)
        weights = self.convolution.weight
        change = functional.conv2d(inside, weights, padding=1) * taps + self.convolution.bias.view(-1, 1, 1)
        return (x + change) * seen


def _neighbours(counts: Float[Tensor, "images 1 rows cols"]) -> Float[Tensor, "images 1 rows cols"]:
    return functional.conv2d(counts, counts.new_ones(1, 1, 3, 3), padding=1)


class DateAttention(nn.Module):
    """Attention pooling of each cell over its dates by learned queries; only dates on which the cell was seen take part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width {width} cannot be shared out between {heads} heads; take a multiple")
        self.date = DateFeatures(width)
        self.norm = nn.LayerNorm(width)
        # without a last bias: a softmax does not see it
        self.score = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, heads, bias=False))
        self.value = nn.Linear(width, width)
        self.leave = nn.Linear(width, width)

    def forward(
        self,
        cells: Float[Tensor, "chips dates positions width"],
        seen: Bool[Tensor, "chips dates positions"],
        days: Float[Tensor, "chips dates"],
    ) -> Float[Tensor, "chips positions width"]:
        tokens = self.norm(cells + self.date(days).unsqueeze(2))
        scores = self.score(tokens).float() if cells.dtype in (torch.float16, torch.bfloat16) else self.score(tokens)
        # the lowest number, not -inf: a cell that no date saw would become NaN, also in the gradient
        weights = scores.masked_fill(~seen.unsqueeze(-1), torch.finfo(scores.dtype).min).softmax(dim=1) * seen.unsqueeze(-1)
        values = self.value(tokens).unflatten(-1, (weights.shape[-1], -1))
        pooled = torch.einsum("btph,btphc->bphc", weights.to(values.dtype), values)
        return self.leave(pooled.flatten(-2))


@register
class RasterEncoder(Encoder):
    """Encoder of raster sensors.

    Parameters
    ----------
    width, shared_dim : W and D
    pixel_channels : channels of pixels and tokens
    heads : of the attention over dates
    hidden : width of the network that writes the bands' kernels
    """

    kind = "raster"
    presets = {
        "tiny": {"width": 96, "shared_dim": 64, "pixel_channels": 24, "heads": 4, "hidden": 48},
        "small": {"width": 192, "shared_dim": 128, "pixel_channels": 48, "heads": 6, "hidden": 96},
        "base": {"width": 384, "shared_dim": 256, "pixel_channels": 96, "heads": 8, "hidden": 192},
    }

    def __init__(self, width: int, shared_dim: int, pixel_channels: int, heads: int, hidden: int) -> None:
        super().__init__(width=width, shared_dim=shared_dim, pixel_channels=pixel_channels, heads=heads, hidden=hidden)
        self.kernels = BandKernels(pixel_channels, hidden)
        self.fraction = nn.Parameter(torch.zeros(pixel_channels))
        self.bias = nn.Parameter(torch.zeros(pixel_channels))
        self.tokens = nn.Conv2d(2 * pixel_channels + 1, pixel_channels, 1)
        self.texture = nn.ModuleList(MaskedConvolution(pixel_channels) for _ in range(2))
        self.cells = nn.Linear(2 * pixel_channels + 1, width)
        self.dates = DateAttention(width, heads)
        self.surround = nn.ModuleList(MaskedConvolution(width) for _ in range(_CELL_CONVOLUTIONS))
        self.head = EmbeddingHead(width, width, shared_dim)

    def receptive_field(self, column: float, *, voxel: float | None = None, cell: float | None = None) -> int:
        """Two columns for pixels and tokens, which are never larger than a column here, and the cells' convolutions."""
        return 2 + math.ceil(_CELL_CONVOLUTIONS * (cell or column) / column - 1e-6)

    def forward(self, batch: ChipBatch, sensor: str, cell: float | None = None) -> ColumnEmbedding:
        """As `Encoder.forward`; a cell is present when a pixel of it is valid in a band on a date."""
        if sensor not in batch.rasters:
            raise sensor_missing(batch, sensor)
        seen_by = batch.rasters[sensor]
        grid = CellGrid.of(batch, cell)
        check_raster(seen_by, batch, sensor)
        cells, seen = self._cells_by_date(seen_by, grid, batch.size)
        pooled = self.dates(cells, seen, seen_by.days)
        present = seen.any(dim=1)
        side = grid.per_side
        image = pooled.movedim(-1, 1).unflatten(-1, (side, side))
        mask = present.view(-1, 1, side, side)
        image = image * mask
        for convolution in self.surround:
            image = convolution(image, mask)
        shared, features = self.head(image.movedim(1, -1).reshape(grid.count, self.width), present.flatten())
        return ColumnEmbedding(shared, features, present.flatten(), grid.cell, side, side)

    def _cells_by_date(self, raster: RasterObservation, grid: CellGrid, size: int) -> tuple[Tensor, Tensor]:
        """Cells [B, T, P, W] and where they were seen [B, T, P]; only dates that are there are computed."""
        chips, dates = raster.date_present.shape
        chip, date = raster.date_present.nonzero(as_tuple=True)
        kernels = self.kernels(raster.bands, raster.pixel)
        at_once = max(1, _PIECE // max(1, raster.values.shape[-1] * raster.values.shape[-2]))
        encoded = []
        # A traced program cannot loop as often as its input says: it takes all images as one piece.
        pieces = [(chip, date)] if torch.compiler.is_compiling() else list(zip(chip.split(at_once), date.split(at_once)))
        for piece in pieces:
            arguments = (raster.values[piece], raster.valid[piece], kernels, raster, raster.pixel_origin[piece[0]], grid, size)
            if torch.is_grad_enabled() and len(pieces) > 1:
                encoded.append(checkpoint(self._encode_images, *arguments, use_reentrant=False))
            else:
                encoded.append(self._encode_images(*arguments))
        values = torch.cat([image for image, _ in encoded])
        visible = torch.cat([mask for _, mask in encoded])
        flat = chip * dates + date
        cells = values.new_zeros(chips * dates, *values.shape[1:]).index_copy(0, flat, values)
        seen = visible.new_zeros(chips * dates, visible.shape[1]).index_copy(0, flat, visible)
        return cells.unflatten(0, (chips, dates)), seen.unflatten(0, (chips, dates))

    def _encode_images(
        self,
        values: Float[Tensor, "images channels height width"],
        valid: Bool[Tensor, "images channels height width"],
        kernels: Float[Tensor, "outputs channels 3 3"],
        raster: RasterObservation,
        pixel_origin: Tensor,
        grid: CellGrid,
        size: int,
    ) -> tuple[Tensor, Tensor]:
        """Images of one date each to cells [K, P, W], and where a valid pixel is [K, P]."""
        pixels, seen = self._pixels(values, valid, kernels, spatial=raster.pixels_per_column > 1)
        if raster.pixels_per_column:
            # area-weighted where cells cut pixels: each pixel becomes `repeat` x `repeat` equal ones
            repeat = grid.split // math.gcd(grid.split, raster.pixels_per_column * grid.merge)
            per_cell = raster.pixels_per_column * grid.merge * repeat // grid.split
            shrink = _shrink(raster.pixels_per_column, per_cell if repeat == 1 else 1)
            pixels, seen = _repeat(pixels, repeat), _repeat(seen, repeat)
        else:
            pixels, seen = _lift_coarse(pixels, seen, raster.columns_per_pixel, pixel_origin, grid.split, size)
            per_cell, shrink = grid.merge, 1
        tokens, filled = self._pool(pixels, seen, shrink)
        token_seen = filled > 0
        tokens = self.tokens(tokens) * token_seen
        for convolution in self.texture:
            tokens = convolution(tokens, token_seen)
        pooled, share = self._pool(tokens, token_seen, per_cell // shrink, filled)
        return self.cells(pooled.movedim(1, -1)).flatten(1, 2), (share > 0).flatten(1)

    def _pixels(self, values: Tensor, valid: Tensor, kernels: Tensor, spatial: bool) -> tuple[Tensor, Tensor]:
        """Pixels [K, C, H, W] from the valid bands of their 3 x 3 neighbourhood, and where a band is valid [K, 1, H, W].

        Pixels of a column's size or larger are read by the sum of a kernel's taps: a 3 x 3 kernel inside one flat pixel.
        """
        valid = valid & values.isfinite()
        measured = torch.where(valid, values, 0.0).to(self.dtype)
        bands = valid.sum(dim=1, keepdim=True).to(self.dtype)
        if spatial:
            read, taps = functional.conv2d(measured, kernels, padding=1), _neighbours(bands)
        else:
            read, taps = functional.conv2d(measured, kernels.sum(dim=(2, 3), keepdim=True)), 9 * bands
        share = bands / max(1, valid.shape[1])
        offset = self.bias.view(-1, 1, 1) + share * self.fraction.view(-1, 1, 1)
        seen = bands > 0
        return functional.gelu(read * taps.clamp(min=1).rsqrt() + offset) * seen, seen

    @staticmethod
    def _pool(x: Tensor, seen: Tensor, factor: int, share: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and maximum of the seen of `factor` x `factor` squares and the share seen [K, 2 C + 1, ...], and the share."""
        images, channels, rows, cols = x.shape
        squares = x.reshape(images, channels, rows // factor, factor, cols // factor, factor)
        mask = seen.reshape(images, 1, rows // factor, factor, cols // factor, factor)
        count = mask.sum(dim=(3, 5)).to(x.dtype)
        mean = (squares * mask).sum(dim=(3, 5)) / count.clamp(min=1)
        highest = squares.masked_fill(~mask, torch.finfo(x.dtype).min).amax(dim=(3, 5)).masked_fill(count == 0, 0.0)
        if share is None:
            filled = count / factor**2
        else:
            filled = share.reshape(mask.shape).mean(dim=(3, 5))
        return torch.cat((mean, highest, filled.to(x.dtype)), dim=1), filled


def _shrink(pixels_per_column: int, per_cell: int) -> int:
    """Pixels on a token's side: whole tokens in columns and in cells, and `_TOKENS` on a column's side or more."""
    most = max(1, pixels_per_column // _TOKENS)
    common = math.gcd(pixels_per_column, per_cell)
    return max(factor for factor in range(1, most + 1) if common % factor == 0)


def _repeat(x: Tensor, times: int) -> Tensor:
    return x if times == 1 else x.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)


def _lift_coarse(
    pixels: Tensor, seen: Tensor, columns_per_pixel: int, pixel_origin: Tensor, split: int, size: int
) -> tuple[Tensor, Tensor]:
    """Pixels larger than a column, given to each column (or each of its split x split cells) that they cover."""
    inside = torch.arange(size * split, device=pixels.device)
    row, col = (((origin.unsqueeze(1) * split + inside) // (columns_per_pixel * split)) for origin in pixel_origin.unbind(1))
    image = torch.arange(pixels.shape[0], device=pixels.device).view(-1, 1, 1)
    at = (image, row.unsqueeze(2), col.unsqueeze(1))
    return pixels.movedim(1, -1)[at].movedim(-1, 1), seen.movedim(1, -1)[at].movedim(-1, 1)


def check_raster(raster: RasterObservation, batch: ChipBatch, sensor: str) -> None:
    """Raise ConfigError unless a raster's tensors fit one another and cover the chips of `batch`."""
    values = raster.values
    if values.dim() != 5 or raster.valid.shape != values.shape:
        raise ConfigError(
            f"{sensor}: values must be [chips, dates, channels, height, width] and valid the same, "
            f"not {tuple(values.shape)} and {tuple(raster.valid.shape)}"
        )
    chips, dates, channels, height, width = values.shape
    if chips != batch.chips or channels != len(raster.bands):
        raise ConfigError(
            f"{sensor}: {chips} chips of {channels} channels given for {batch.chips} chips of {len(raster.bands)} bands"
        )
    if raster.days.shape != (chips, dates) or raster.date_present.shape != (chips, dates):
        raise ConfigError(f"{sensor}: days and date_present must be [{chips}, {dates}], one for each chip and date")
    if raster.pixels_per_column:
        if height != batch.size * raster.pixels_per_column or width != height:
            raise ConfigError(
                f"{sensor}: {height} x {width} pixels do not cover {batch.size} columns of "
                f"{raster.pixels_per_column} pixels a side"
            )
        return
    if raster.columns_per_pixel < 1:
        raise ConfigError(f"{sensor}: neither pixels_per_column nor columns_per_pixel is given; one must be at least 1")
    if torch.compiler.is_compiling():
        return  # a traced program cannot decide by values
    if chips and int(raster.pixel_origin.max()) + batch.size > min(height, width) * raster.columns_per_pixel:
        raise ConfigError(
            f"{sensor}: {height} x {width} pixels of {raster.columns_per_pixel} columns do not cover chips of "
            f"{batch.size} columns"
        )
