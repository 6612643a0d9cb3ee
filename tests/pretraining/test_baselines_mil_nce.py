from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from fusion3d.pretraining.baselines.mil_nce import Tokens, token_losses

# Sensor, place, tile of each token; place 3 was seen by one sensor only. Places 0 and 1 lie in tile 0, the others in tile 1.
TOKENS = [(0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 1, 0), (1, 1, 0), (0, 2, 1), (2, 2, 1), (1, 3, 1), (0, 4, 1), (1, 4, 1)]
POSITION = torch.tensor([[5.0, 5.0], [15.0, 5.0], [105.0, 5.0], [115.0, 5.0], [125.0, 5.0]], dtype=torch.float64)


def tokens(vectors: torch.Tensor, radius: float = 0.0, position: torch.Tensor = POSITION) -> Tokens:
    sensor, place, tile = (torch.tensor(column) for column in zip(*TOKENS))
    return Tokens(vectors, sensor, place, tile, position[place], radius)


def random_vectors() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return normalize(torch.randn(len(TOKENS), 5, generator=generator, dtype=torch.float64), dim=1)


def by_hand(vectors, temperature: float, radius: float = 0.0, position=POSITION) -> dict[int, float]:
    """The published formula, token by token."""
    found = {}
    for q, (sensor, place, tile) in enumerate(TOKENS):
        above = below = 0.0
        for k, (other, there, where) in enumerate(TOKENS):
            e = math.exp(float(vectors[q] @ vectors[k]) / temperature)
            if there == place and other != sensor:
                above += e
                below += e
            elif (other == sensor and where == tile) or math.dist(position[place].tolist(), position[there].tolist()) < radius:
                continue
            else:
                below += e
        if above:
            found[q] = -math.log(above / below)
    return found


@pytest.mark.parametrize("rows", [3, 100])
@pytest.mark.parametrize("radius", [0.0, 12.0])
def test_losses_are_those_of_the_formula_written_out(rows, radius):
    vectors = random_vectors()
    values, query = token_losses(tokens(vectors, radius), torch.tensor(0.2, dtype=torch.float64), rows)
    expected = by_hand(vectors, 0.2, radius)
    assert query.tolist() == list(expected)
    assert values.tolist() == pytest.approx(list(expected.values()), rel=1e-12)


def test_gradients_of_vectors_and_temperature_are_those_of_finite_differences():
    vectors = random_vectors().requires_grad_()
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, t: token_losses(tokens(v, 12.0), t, 4)[0], (vectors, temperature))


def test_column_seen_in_two_overlapping_tiles_is_no_negative_of_itself():
    twice = POSITION.clone()
    twice[2] = twice[0]
    vectors = random_vectors()
    values, _ = token_losses(tokens(vectors, 5.0, twice), torch.tensor(0.2, dtype=torch.float64))
    assert values.tolist() == pytest.approx(list(by_hand(vectors, 0.2, 5.0, twice).values()), rel=1e-12)
    assert not torch.allclose(values, token_losses(tokens(vectors, 5.0), torch.tensor(0.2, dtype=torch.float64))[0])


def test_two_sensors_that_agree_perfectly_in_tiles_of_one_column_give_the_closed_form():
    """Orthogonal places: each query sees its positive (similarity 1), and 2 (n - 1) tokens of similarity 0."""
    count, temperature = 6, 0.5
    eye = torch.eye(count, dtype=torch.float64)
    place = torch.arange(count).repeat(2)
    sensor = torch.arange(2).repeat_interleave(count)
    made = Tokens(eye.repeat(2, 1), sensor, place, place, torch.zeros(2 * count, 2, dtype=torch.float64), 0.0)
    values, _ = token_losses(made, torch.tensor(temperature, dtype=torch.float64))
    expected = math.log(1 + 2 * (count - 1) * math.exp(-1 / temperature))
    assert values.tolist() == pytest.approx([expected] * 2 * count)


def test_order_of_the_tokens_changes_nothing():
    vectors, shuffle = random_vectors(), torch.randperm(len(TOKENS), generator=torch.Generator().manual_seed(1))
    made = tokens(vectors)
    other = Tokens(vectors[shuffle], made.sensor[shuffle], made.place[shuffle], made.tile[shuffle], made.position[shuffle], 0.0)
    values, query = token_losses(made, torch.tensor(0.2, dtype=torch.float64))
    again, asked = token_losses(other, torch.tensor(0.2, dtype=torch.float64))
    assert dict(zip(shuffle[asked].tolist(), again.tolist())) == pytest.approx(dict(zip(query.tolist(), values.tolist())))


def test_no_token_is_no_loss_with_a_gradient():
    vectors = torch.zeros(0, 5, requires_grad=True)
    empty = torch.zeros(0, dtype=torch.int64)
    values, query = token_losses(Tokens(vectors, empty, empty, empty, torch.zeros(0, 2), 5.0), torch.tensor(0.2))
    assert len(values) == len(query) == 0
    values.sum().backward()
