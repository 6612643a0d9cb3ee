"""What every encoder in the registry keeps to; a new one is tested by being registered."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from fusion3d.data.observation import ChipBatch
from fusion3d.encoders import ENCODERS, ColumnEmbedding, Encoder, FootprintEmbedding, build, kind_of, load_encoder, save_encoder
from fusion3d.errors import ConfigError
from tests.encoders.batches import RASTERS, SENSORS, chips, emptied, only, single, with_raster

OBSERVED = {"raster": RASTERS}
"""Sensors of a kind whose name is not its own."""

CASES = [(kind, sensor) for kind in ENCODERS for sensor in OBSERVED.get(kind, (kind,))]
every_case = pytest.mark.parametrize(("kind", "sensor"), CASES, ids=[f"{kind}-{sensor}" for kind, sensor in CASES])
every_kind = pytest.mark.parametrize("kind", ENCODERS)


@pytest.fixture(scope="module")
def batch() -> ChipBatch:
    return chips()


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    torch.manual_seed(0)
    return {kind: build(kind, "tiny").eval() for kind in ENCODERS}


def largest(value: ColumnEmbedding | FootprintEmbedding, other: ColumnEmbedding | FootprintEmbedding) -> float:
    """Largest difference between embeddings that must be of the same cells."""
    assert torch.equal(value.present, other.present)
    pairs = ((value.shared, other.shared), (value.features, other.features))
    return max((float((one - two).detach().abs().max()) if one.numel() else 0.0) for one, two in pairs)


def is_zero_where_absent(embedding: ColumnEmbedding | FootprintEmbedding) -> bool:
    absent = ~embedding.present
    return not bool(embedding.shared[absent].any() | embedding.features[absent].any())


def is_finite(embedding: ColumnEmbedding | FootprintEmbedding) -> bool:
    return bool(embedding.shared.isfinite().all() & embedding.features.isfinite().all())


def test_cases_cover_every_sensor():
    assert {sensor for _, sensor in CASES} >= set(SENSORS)
    assert all(kind_of(sensor) == kind for kind, sensor in CASES)


@every_kind
def test_every_preset_builds_and_larger_ones_are_larger(kind):
    sizes = []
    for preset in ENCODERS[kind].presets:
        with torch.device("meta"):
            encoder = build(kind, preset)
        assert encoder.width == encoder.hyperparameters["width"]
        sizes.append(sum(parameter.numel() for parameter in encoder.parameters()))
    assert list(ENCODERS[kind].presets) == ["tiny", "small", "base"]
    assert sizes == sorted(set(sizes))


@every_kind
def test_hyperparameters_are_plain_and_make_the_same_encoder(kind, encoders):
    encoder = encoders[kind]
    assert all(type(value) in (int, float, str, bool) for value in encoder.hyperparameters.values())
    again = type(encoder)(**encoder.hyperparameters)
    assert {n: v.shape for n, v in again.state_dict().items()} == {n: v.shape for n, v in encoder.state_dict().items()}


@every_kind
def test_unknown_names_are_refused_in_words(kind):
    with pytest.raises(ConfigError, match="no preset 'huge'; choose from tiny"):
        build(kind, "huge")
    with pytest.raises(ConfigError, match="no option depth; it has width"):
        build(kind, "tiny", depth=3)
    with pytest.raises(ConfigError, match=f"no encoder 'sonar'; choose from .*{kind}"):
        build("sonar")
    with pytest.raises(ConfigError, match=f"width of the {kind} encoder must be at least 1, not 0"):
        build(kind, "tiny", width=0)


@every_case
def test_absent_sensor_is_an_error_that_names_it(kind, sensor, batch, encoders):
    others = only(batch, *(name for name in SENSORS if name != sensor))
    with pytest.raises(ConfigError, match=f"sensor '{sensor}'"):
        encoders[kind](others, sensor)
    with pytest.raises(ConfigError, match="it holds none"):
        encoders[kind](only(batch), sensor)


@every_case
def test_result_has_the_documented_shapes(kind, sensor, batch, encoders):
    encoder, result = encoders[kind], encoders[kind](batch, sensor)
    items = result.present.numel()
    assert result.shared.shape == (items, encoder.shared_dim)
    assert result.features.shape == (items, encoder.width)
    assert result.present.dtype == torch.bool
    assert result.shared.dtype == result.features.dtype == torch.float32
    if isinstance(result, ColumnEmbedding):
        assert items == batch.columns
        assert (result.rows, result.cols, result.cell) == (batch.size, batch.size, batch.column)
    else:
        assert items == batch.gedi.count
    assert result.present.any()
    assert is_finite(result)
    assert is_zero_where_absent(result)


@every_case
@pytest.mark.parametrize(("cell", "per_side"), [(4.0, 8), (8.0, 4), (16.0, 2), (32.0, 1)])
def test_cells_of_any_size_have_the_documented_shapes(kind, sensor, cell, per_side, batch, encoders):
    result = encoders[kind](batch, sensor, cell=cell)
    if isinstance(result, FootprintEmbedding):
        assert torch.equal(result.features, encoders[kind](batch, sensor).features)
        return
    assert (result.rows, result.cols, result.cell) == (per_side, per_side, cell)
    assert result.shared.shape[0] == batch.chips * per_side**2
    assert is_finite(result)
    assert result.present.any()


@every_case
@pytest.mark.parametrize("cell", [3.0, 12.0, 24.0, 0.0, -8.0, float("nan"), float("inf")])
def test_cell_that_does_not_fit_is_refused(kind, sensor, cell, batch, encoders):
    if isinstance(encoders[kind](batch, sensor), FootprintEmbedding):
        pytest.skip("footprints have no cells")
    with pytest.raises(ConfigError, match="cell"):
        encoders[kind](batch, sensor, cell=cell)


@every_case
def test_other_sensors_change_nothing(kind, sensor, batch, encoders):
    alone = encoders[kind](only(batch, sensor), sensor)
    others = [name for name in SENSORS if name != sensor]
    for count in (1, 3, len(others)):
        for subset in list(combinations(others, count))[:3]:
            assert largest(encoders[kind](only(batch, sensor, *subset), sensor), alone) == 0


@every_case
def test_empty_input_gives_absent_zeros(kind, sensor, batch, encoders):
    result = encoders[kind](emptied(batch), sensor)
    assert not result.present.any()
    assert not result.shared.any()
    assert not result.features.any()
    assert is_finite(result)
    assert result.features.shape == (0 if isinstance(result, FootprintEmbedding) else batch.columns, encoders[kind].width)


@every_case
def test_gradient_of_empty_input_is_finite(kind, sensor, batch, encoders):
    encoder = encoders[kind]
    result = encoder(emptied(batch), sensor)
    (result.shared.sum() + result.features.sum()).backward()
    gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
    encoder.zero_grad()
    assert all(not gradient.any() for gradient in gradients)


@every_case
def test_batch_of_no_chips_gives_nothing(kind, sensor, encoders):
    result = encoders[kind](chips(origin=()), sensor)
    assert result.features.shape == (0, encoders[kind].width)
    assert result.present.shape == (0,)


@every_case
def test_one_measurement_is_embedded_and_everything_else_absent(kind, sensor, batch, encoders):
    column = 16 + 9  # row 2, column 1 of the second chip
    one = single(batch, column)
    result = encoders[kind](one, sensor)
    assert is_finite(result)
    assert is_zero_where_absent(result)
    seen = result.present.nonzero().squeeze(1).tolist()
    if isinstance(result, FootprintEmbedding):
        assert seen == [0]
    elif sensor == "coarse":
        assert column in seen
        assert all(index // 16 == 1 for index in seen)
    else:
        assert seen == [column]
    assert result.features[result.present].abs().sum() > 0


@every_kind
def test_gradient_reaches_every_parameter(kind, batch):
    torch.manual_seed(1)
    encoder = build(kind, "tiny").double()
    for sensor in OBSERVED.get(kind, (kind,)):
        result = encoder(batch, sensor)
        # Random weights: the sum of normalised features alone would be constant.
        loss = (result.shared * torch.randn_like(result.shared)).sum() + (
            result.features * torch.randn_like(result.features)
        ).sum()
        loss.backward()
    # Rounding leaves about 1e-16 where a parameter has no effect at all, as the bias of a softmax's logits.
    unreached = [name for name, p in encoder.named_parameters() if p.grad is None or not float(p.grad.abs().max()) > 1e-10]
    assert unreached == []
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


@every_case
def test_evaluation_is_deterministic(kind, sensor, batch, encoders):
    assert largest(encoders[kind](batch, sensor), encoders[kind](batch, sensor)) == 0


@every_case
def test_double_precision_is_kept_and_agrees(kind, sensor, batch, encoders):
    encoder = build(kind, "tiny").eval()
    encoder.load_state_dict(encoders[kind].state_dict())
    encoder.double()
    result, single_precision = encoder(batch, sensor), encoders[kind](batch, sensor)
    assert encoder.dtype == result.shared.dtype == result.features.dtype == torch.float64
    assert largest(encoder(batch.to(torch.float64), sensor), single_precision) < 1e-4
    assert largest(result, single_precision) < 1e-4


@every_case
def test_saved_encoder_loads_to_the_same_values(kind, sensor, batch, encoders, tmp_path):
    path = save_encoder(encoders[kind], tmp_path / "encoder.safetensors")
    again = load_encoder(path)
    assert type(again) is type(encoders[kind])
    assert not again.training
    assert again.hyperparameters == encoders[kind].hyperparameters
    assert largest(again(batch, sensor), encoders[kind](batch, sensor)) == 0


@every_case
def test_chips_encoded_together_equal_chips_encoded_alone(kind, sensor, encoders):
    encoder = encoders[kind]
    origins = ((3, 5), (4, 2), (0, 9))
    together = chips(origins)
    result = encoder(together, sensor)
    for chip, origin in enumerate(origins):
        if isinstance(result, FootprintEmbedding):
            rows = together.gedi.chip == chip
            alone = encoder(replace(together, gedi=_footprints_of(together, chip)), sensor)
        else:
            rows = torch.arange(result.present.numel()) // together.size**2 == chip
            alone = encoder(chips((origin,)), sensor)
        part = type(result)(**{**vars(result), **{n: getattr(result, n)[rows] for n in ("shared", "features", "present")}})
        assert part.present.any()
        assert largest(part, alone) < 1e-5


def _footprints_of(batch: ChipBatch, chip: int):
    every = batch.gedi
    rows = every.chip == chip
    points = rows.repeat_interleave(every.row_splits.diff())
    lengths = every.row_splits.diff()[rows]
    return replace(
        every,
        position=every.position[rows],
        chip=torch.zeros(int(rows.sum()), dtype=torch.int64),
        height=every.height[points],
        energy=every.energy[points],
        row_splits=torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0))),
        attributes=every.attributes[rows],
        day=every.day[rows],
    )


def _permutation(row_splits: torch.Tensor) -> torch.Tensor:
    random = torch.Generator().manual_seed(5)
    pieces = [a + torch.randperm(b - a, generator=random) for a, b in zip(row_splits[:-1].tolist(), row_splits[1:].tolist())]
    return torch.cat(pieces)


def shuffled(batch: ChipBatch) -> ChipBatch:
    """Points of each column, vertical points of each footprint and dates of each raster in another order."""
    als, gedi = batch.als, batch.gedi
    order = _permutation(als.row_splits)
    batch = replace(batch, als=replace(als, offset=als.offset[order], height=als.height[order], attributes=als.attributes[order]))
    order = _permutation(gedi.row_splits)
    batch = replace(batch, gedi=replace(gedi, height=gedi.height[order], energy=gedi.energy[order]))
    for name, raster in batch.rasters.items():
        order = torch.arange(raster.days.shape[1]).roll(1)
        names = ("values", "valid", "days", "date_present")
        batch = with_raster(batch, name, **{field: getattr(raster, field)[:, order] for field in names})
    return batch


@every_case
def test_order_of_measurements_changes_nothing(kind, sensor, batch, encoders):
    assert largest(encoders[kind](shuffled(batch), sensor), encoders[kind](batch, sensor)) < 1e-5


def spoiled(batch: ChipBatch, value: float) -> ChipBatch:
    """Every second height and every second value of a raster is not finite; the measurements are as many."""
    als, gedi = batch.als, batch.gedi
    batch = replace(
        batch,
        als=replace(als, height=als.height.clone().index_fill_(0, torch.arange(0, len(als.height), 2), value)),
        gedi=replace(gedi, height=gedi.height.clone().index_fill_(0, torch.arange(0, len(gedi.height), 2), value)),
    )
    for name, raster in batch.rasters.items():
        values = raster.values.clone()
        values[..., ::2] = value
        batch = with_raster(batch, name, values=values)
    return batch


def without_spoiled(batch: ChipBatch) -> ChipBatch:
    """The batch without the measurements that `spoiled` makes useless."""
    als, gedi = batch.als, batch.gedi
    kept, keep = torch.arange(1, len(als.height), 2), torch.arange(1, len(gedi.height), 2)
    batch = replace(
        batch,
        als=replace(
            als,
            offset=als.offset[kept],
            height=als.height[kept],
            attributes=als.attributes[kept],
            row_splits=als.row_splits // 2,
        ),
        gedi=replace(gedi, height=gedi.height[keep], energy=gedi.energy[keep], row_splits=gedi.row_splits // 2),
    )
    for name, raster in batch.rasters.items():
        valid = raster.valid.clone()
        valid[..., ::2] = False
        batch = with_raster(batch, name, valid=valid)
    return batch


@every_case
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_measurements_that_are_not_finite_do_not_count(kind, sensor, value, batch, encoders):
    assert largest(encoders[kind](spoiled(batch, value), sensor), encoders[kind](without_spoiled(batch), sensor)) < 1e-5


@pytest.mark.parametrize("sensor", ["als", "gedi"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_attributes_that_are_not_finite_leave_embeddings_finite(sensor, value, batch, encoders):
    observed = getattr(batch, sensor)
    attributes = observed.attributes.clone()
    attributes[1::2, 0] = value
    result = encoders[sensor](replace(batch, **{sensor: replace(observed, attributes=attributes)}), sensor)
    assert is_finite(result)
    assert torch.equal(result.present, encoders[sensor](batch, sensor).present)


@every_case
def test_receptive_field_is_a_number_of_columns_that_grows_with_the_cell(kind, sensor, encoders):
    fields = [encoders[kind].receptive_field(8.0, voxel=1.0, cell=cell) for cell in (None, 8.0, 16.0, 32.0)]
    assert all(type(field) is int and field >= 0 for field in fields)
    assert fields[0] == fields[1]
    assert fields == sorted(fields)
    assert encoders[kind].receptive_field(8.0) >= fields[0]
