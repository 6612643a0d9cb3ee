"""Encoders compiled by torch.compile and exported by torch.export give what they give as they are, whatever the size of a batch.

Backend aot_eager traces forward and backward through every fake kernel, and leaves out the minutes that inductor takes for C++.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fusion3d.encoders import ENCODERS, build, export_program, program_inputs
from fusion3d.errors import ConfigError
from tests.encoders.batches import chips, emptied, single

SMALLEST = {"levels": 1, "channels": 8, "heads": 2}
"""Of the als encoder: tracing takes as long as there are layers."""


def tiny(kind, **options):
    torch.manual_seed(0)
    return build(kind, "tiny", **options).eval()


def batches(sensor):
    """Other numbers of chips, points, footprints and dates than the example of two chips."""
    example = chips(sensors=(sensor,))
    others = [chips(origin, sensors=(sensor,)) for origin in ([(2, 9)], [(0, 0), (7, 3), (4, 4)])]
    empty = [] if sensor == "gedi" else [emptied(example), single(example, 9)]
    return example, [example, *others, *empty]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """File of a program, exported once."""
    folder = tmp_path_factory.mktemp("programs")

    def path(kind, sensor):
        file = folder / f"{sensor}.pt2"
        if not file.exists():
            torch.export.save(export_program(tiny(kind), batches(sensor)[0], sensor), file)
        return file

    return path


@pytest.mark.parametrize(("kind", "sensor"), [("als", "als"), ("gedi", "gedi"), ("raster", "coarse")])
def test_exported_program_read_again_equals_the_encoder_on_batches_of_any_size(kind, sensor, exported):
    program, encoder = torch.export.load(exported(kind, sensor)).module(), tiny(kind)
    for batch in batches(sensor)[1]:
        found, expected = program(*program_inputs(batch, sensor)), encoder(batch, sensor)
        assert torch.equal(found[2], expected.present)
        torch.testing.assert_close(found[0], expected.shared, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[1], expected.features, rtol=1e-5, atol=1e-5)


def test_program_runs_with_the_operators_alone(exported, tmp_path):
    example = chips(sensors=("als",))
    torch.save((program_inputs(example, "als"), tiny("als")(example).features.detach()), tmp_path / "case.pt")
    code = (
        "import sys, torch, fusion3d.ops\n"
        "program = torch.export.load(sys.argv[1]).module()\n"
        "inputs, expected = torch.load('case.pt')\n"
        "torch.testing.assert_close(program(*inputs)[1], expected)\n"
        "assert 'fusion3d.encoders' not in sys.modules\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, exported("als", "als")],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr


def test_example_that_shows_nothing_is_refused():
    with pytest.raises(ConfigError, match="holds no observation of sensor 's1'"):
        export_program(tiny("raster"), chips(sensors=("s2",)), "s1")
    for sensor in ("als", "gedi"):
        with pytest.raises(ConfigError, match=f"nothing that {sensor} saw"):
            export_program(tiny(sensor), emptied(chips(sensors=(sensor,))), sensor)
    with pytest.raises(ConfigError, match="no images of s2"):
        export_program(tiny("raster"), chips((), sensors=("s2",)), "s2")


@pytest.mark.parametrize(("kind", "sensor", "dynamic"), [("als", "als", True), ("gedi", "gedi", True), ("raster", "s2", None)])
def test_compiled_encoder_is_one_graph_for_batches_of_other_sizes(kind, sensor, dynamic):
    graphs = []

    def counted(graph, example):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    encoder, known = tiny(kind), 1 if dynamic else 2  # without `dynamic`, torch finds out at the second size
    compiled = torch.compile(encoder, fullgraph=True, dynamic=dynamic, backend=counted)
    for origin in ([(3, 5), (4, 2), (9, 9)], [(0, 0), (7, 3)], [(2, 9), (8, 8), (1, 4), (6, 0)]):
        batch = chips(origin, sensors=(sensor,))
        found, expected = compiled(batch, sensor), encoder(batch, sensor)
        assert torch.equal(found.present, expected.present)
        torch.testing.assert_close(found.features, expected.features, rtol=1e-5, atol=1e-5)
    assert len(graphs) == known


def test_compiled_gradients_equal_those_of_the_encoder():
    torch.compiler.reset()
    encoder = tiny("als", **SMALLEST)
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True, backend="aot_eager")
    for origin in ([(3, 5), (4, 2)], [(0, 0), (7, 3)]):
        batch, gradients = chips(origin, sensors=("als",)), []
        upstream = torch.randn(batch.columns, encoder.width, generator=torch.Generator().manual_seed(1))
        for one in (compiled, encoder):
            encoder.zero_grad()
            found = one(batch)
            ((found.features * upstream).sum() + found.shared.square().sum()).backward()
            gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
        assert len(gradients[0]) == len(gradients[1]) > 20
        for found, expected in zip(*gradients):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_every_preset_trains_a_step_on_a_small_batch(kind, preset):
    torch.manual_seed(0)
    sensor = {"raster": "s2"}.get(kind, kind)
    batch, encoder = chips(size=2, sensors=(sensor,)), build(kind, preset)
    found = encoder(batch, sensor)
    assert found.features.shape[1] == encoder.presets[preset]["width"]
    (found.shared.square().sum() + found.features[:, 0].sum()).backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)
    assert sum(p.grad is not None for p in encoder.parameters()) > 10
