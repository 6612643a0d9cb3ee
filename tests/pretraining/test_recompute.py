"""Work that is computed again in the backward pass has the value and the gradient of work that is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusion3d.pretraining.recompute import recomputed, used_by
from tests.pretraining.gradients import assert_same_gradients, gradients
from tests.pretraining.test_views import batch as batch

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Told:
    vectors: Tensor
    there: Tensor
    cell: float


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 2))


def told(network: nn.Module, x: Tensor) -> dict[str, Any]:
    vectors = network(x)
    return {"a": Told(vectors, x[:, 0] > 0, 2.5), "b": ((vectors.sum(), 7), None)}


def learnt(result: dict[str, Any]) -> Tensor:
    return result["a"].vectors.square().sum() + 3 * result["b"][0][0]


@pytest.mark.parametrize("bfloat16", [False, True])
def test_values_and_gradients_are_those_of_the_plain_computation(bfloat16):
    x, found = torch.randn(5, 3), []
    for plain in (True, False):
        network = model()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            result = told(network, x) if plain else recomputed(lambda of=network: told(of, x), CPU)
            loss = learnt(result)
        before = torch.get_rng_state()
        loss.backward()
        assert torch.equal(torch.get_rng_state(), before)
        found.append((result, loss.item(), [weight.grad for weight in network.parameters()]))
    (first, loss, expected), (second, again, gradient) = found
    assert again == loss
    assert torch.equal(first["a"].vectors, second["a"].vectors)
    assert first["a"].vectors.dtype == second["a"].vectors.dtype
    assert torch.equal(first["a"].there, second["a"].there)
    assert (second["a"].cell, second["b"][0][1], second["b"][1]) == (2.5, 7, None)
    for one, other in zip(expected, gradient, strict=True):
        torch.testing.assert_close(one, other)


def test_what_a_result_has_no_gradient_for_is_left_as_it_is():
    x = torch.randn(5, 3)
    assert recomputed(lambda: (x, 3), CPU)[0] is x
    with torch.no_grad():
        assert not recomputed(lambda: model()(x), CPU).requires_grad


def test_the_work_runs_again_in_the_backward_pass_and_only_there():
    network, runs = model(), []

    def work() -> Tensor:
        runs.append(torch.is_grad_enabled())
        return network(torch.ones(1, 3))

    result = recomputed(work, CPU)
    assert len(runs) == 1
    result.sum().backward()
    assert runs == [True, True]


def test_only_weights_that_the_work_used_have_a_gradient():
    used, unused = nn.Linear(3, 2), nn.Linear(3, 2)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    recomputed(lambda: frozen(used(torch.ones(1, 3))), CPU).sum().backward()
    assert used.weight.grad is not None
    assert all(weight.grad is None for module in (unused, frozen) for weight in module.parameters())


def test_a_gradient_reaches_what_was_computed_before():
    first, second = nn.Linear(3, 4), nn.Linear(4, 2)
    x = torch.randn(5, 3)
    second(first(x)).square().sum().backward()
    expected = [weight.grad.clone() for weight in (*first.parameters(), *second.parameters())]
    first.zero_grad(), second.zero_grad()
    between = first(x)
    parts = [recomputed(lambda inside, rows=rows: second(inside[rows]), CPU, between) for rows in (slice(0, 2), slice(2, 5))]
    torch.cat(parts).square().sum().backward()
    for weight, gradient in zip((*first.parameters(), *second.parameters()), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_nothing_but_the_result_is_kept_until_the_backward_pass():
    """One node of the graph for the whole work, with the weights right behind it."""
    network = nn.Sequential(*[nn.Linear(6, 6) for _ in range(20)])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        result = recomputed(lambda: network(torch.ones(1, 6)), CPU)
    assert not kept
    behind = [node for node, _ in result.grad_fn.next_functions if node is not None]
    assert {id(node.variable) for node in behind} == {id(weight) for weight in network.parameters()}


def test_a_chain_with_the_same_weight_and_hooks_on_the_way():
    def learnt(again: bool) -> list[Tensor]:
        weight, hooked = torch.linspace(0.1, 0.9, 4, requires_grad=True), []
        step = lambda x: [(x * weight).tanh() + weight, weight]  # noqa: E731
        between = first = weight.sin()
        first.register_hook(lambda gradient: hooked.append(gradient) or 2 * gradient)
        first.retain_grad()
        for _ in range(3):
            between, own = recomputed(step, CPU, between) if again else step(between)
        (between.sum() + 3 * own.sum()).backward()
        return [weight.grad, first.grad, *hooked]

    for found, expected in zip(learnt(True), learnt(False), strict=True):
        torch.testing.assert_close(found, expected)


def test_weights_behind_a_result_by_hand():
    used, behind, unused = (torch.ones(2, requires_grad=True) for _ in range(3))

    def named(*results: Tensor) -> set[int]:
        return {id(weight) for weight in used_by(results)}

    assert named((used * 2 * behind + unused.detach()).sum()) == {id(used), id(behind)}
    assert named(recomputed(lambda: (used * behind).sum(), CPU)) == {id(used), id(behind)}
    assert named(used, behind * 2, unused.detach()) == {id(used), id(behind)}


def test_a_prediction_teaches_encoders_in_pieces_as_it_does_at_once(batch):
    assert_same_gradients(gradients(batch, prediction_teaches=True, chips_at_once=1), gradients(batch, prediction_teaches=True))
