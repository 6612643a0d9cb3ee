"""How many chips each encoder may take at once so that training stays within a given amount of memory.

A dry run at the start takes a few chips of the training data, encodes one and two of each sensor's heaviest and goes back for
the gradients, and notes what that held at its peak. What a step needs besides (batches, gradients, optimiser, contrast) is set
aside; what is left is shared out in pieces. Pieces change rounding, never the loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fusion3d.data.chips import collate
from fusion3d.data.observation import ChipBatch
from fusion3d.data.pairs import stream
from fusion3d.errors import ConfigError
from fusion3d.pretraining.distributed import largest_over_ranks
from fusion3d.pretraining.memory import peak, size_text, used
from fusion3d.pretraining.objective import Embedded
from fusion3d.pretraining.views import Cut

if TYPE_CHECKING:
    from fusion3d.pretraining.module import CrossModalPretraining

_DRAWS, _ENOUGH = 64, 3
"""Chips read to find heavy ones, at most; and of each sensor, at least, where the data have them."""
_USABLE = 0.9
"""Share of the budget that is planned: allocators keep some memory of their own, and chips differ."""
_BATCHES_HELD = 3
"""On the CPU: the batch of the step, the next one, and the chips that it was joined from."""
_MiB = 1024**2


@dataclass(frozen=True)
class Cost:
    """What a sensor's encoder and decoder need.

    Attributes
    ----------
    fixed : bytes, whatever the number of chips
    chip : bytes for each chip of the heaviest kind that was seen
    amount : of measurements in that chip
    """

    fixed: int
    chip: int
    amount: int


@dataclass(frozen=True)
class Plan:
    """Pieces that fit a budget.

    Attributes
    ----------
    budget, device : what was asked for, and where it was measured
    in_use, besides : bytes held before training, and what a step needs besides the encoders
    whole : the budget holds everything of a step at once: nothing is computed twice
    """

    budget: int
    device: str
    in_use: int
    besides: int
    costs: Mapping[str, Cost]
    whole: bool = False

    @property
    def room(self) -> int:
        """Bytes for the encoder of one piece."""
        return int(_USABLE * self.budget) - self.in_use - self.besides

    @property
    def cut(self) -> Cut | None:
        """Pieces of a batch, as `Views` takes them."""
        return None if self.whole else self._cut

    def _cut(self, batch: ChipBatch, sensor: str) -> list[tuple[int, int]]:
        cost = self.costs.get(sensor)
        if cost is None:  # never seen in the dry run: as careful as can be
            return [(chip, chip + 1) for chip in range(batch.chips)]
        pieces, start, held = [], 0, 0.0
        for chip in range(batch.chips):
            one = cost.chip * max(1.0, amount(batch.part(chip, chip + 1), sensor) / max(1, cost.amount))
            if chip > start and cost.fixed + held + one > self.room:
                pieces.append((start, chip))
                start, held = chip, 0.0
            held += one
        return [*pieces, (start, batch.chips)]

    def chips_at_once(self, sensor: str) -> int:
        """Chips of a piece, of chips as heavy as those of the dry run."""
        cost = self.costs[sensor]
        return max(1, (self.room - cost.fixed) // max(1, cost.chip))

    def line(self) -> str:
        """The plan in one line for the log."""
        by_sensor = ", ".join(
            f"{name} {self.chips_at_once(name)} ({size_text(cost.chip)} each)" for name, cost in self.costs.items()
        )
        pieces = "whole batches, nothing computed twice" if self.whole else f"chips at once: {by_sensor}"
        return (
            f"memory budget {size_text(self.budget)} on {self.device}: {size_text(self.in_use)} in use, "
            f"{size_text(self.besides)} for batches, optimiser and loss; {pieces}"
        )

    def to_plain(self) -> dict[str, Any]:
        """As plain types, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Plan:
        """The plan of a checkpoint."""
        return cls(**{**plain, "costs": {name: Cost(**cost) for name, cost in plain["costs"].items()}})


def amount(chip: ChipBatch, sensor: str) -> int:
    """How many measurements a chip holds of a sensor: points, vertical points or pixels."""
    if sensor not in chip.sensors:
        return 0
    if sensor == "als":
        return chip.als.height.numel()  # type: ignore[union-attr]
    return chip.gedi.height.numel() if sensor == "gedi" else chip.rasters[sensor].values.numel()  # type: ignore[union-attr]


def plan_pieces(module: CrossModalPretraining, budget: int, loader: DataLoader[ChipBatch], batch_size: int, context: Any) -> Plan:
    """Measure what the sensors of a module need, and plan the pieces.

    Parameters
    ----------
    budget : bytes of each process: resident on the CPU, allocated on a GPU
    loader : of the training batches; a few chips of its data set are read here
    batch_size : chips of a batch of this process
    context : makes the context that a training step runs in (its precision)

    Raises
    ------
    ConfigError
        The budget is below what one chip of a sensor needs.
    """
    device = module.device
    seen = list(_chips(module, loader))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chips = {name: _heaviest(seen, name) for name in module.sensors}
        for name, heavy in chips.items():  # what is loaded or set up at the first call is no part of a piece
            _dry_run(module, heavy[:1], name, context())
        costs = {name: _cost(module, heavy, name, context) for name, heavy in chips.items() if heavy}
        besides = _besides(module, seen, batch_size, context)
    in_use = used(device)
    agreed = _agreed({"": Cost(in_use, besides, 0), **costs}, ("", *module.sensors), device)
    in_use, besides = agreed[""].fixed, agreed[""].chip
    costs = {name: cost for name, cost in agreed.items() if name and cost.amount}
    plan = Plan(budget, device.type, in_use, besides, costs)
    most = max(((cost.fixed + cost.chip, name) for name, cost in costs.items()), default=(0, ""))
    if most[0] > plan.room:
        needed = (in_use + besides + most[0]) / _USABLE
        raise ConfigError(
            f"--model.memory_budget {size_text(budget)} is too small: a step needs {size_text(needed)} "
            f"({size_text(in_use)} in use, {size_text(besides)} for batches of {batch_size} chips, optimiser and loss, "
            f"{size_text(most[0])} for one chip of {most[1]}, and a tenth to spare); give more, "
            "or make --data.size or --data.batch_size smaller"
        )
    at_once = len(costs) if module.alignment.every_sensor else min(len(costs), 2 * module.hparams["pairs"])
    runs = 4 if module.hparams["date_positives"] else 2  # whole, with a part hidden, and on each half of the dates
    every = sorted((runs * (cost.fixed + batch_size * cost.chip) for cost in costs.values()), reverse=True)[:at_once]
    return Plan(budget, device.type, in_use, besides, costs, whole=sum(every) <= plan.room)


def _chips(module: CrossModalPretraining, loader: DataLoader[ChipBatch]) -> Iterator[ChipBatch]:
    """Chips of the first batches, one of each, until every sensor was there a few times."""
    counts = dict.fromkeys(module.sensors, 0)
    for addresses in islice(loader.batch_sampler or (), _DRAWS):
        chip = loader.dataset[addresses[0]]
        for name in chip.sensors:
            if name in counts:
                counts[name] += 1
        yield chip
        if min(counts.values()) >= _ENOUGH:
            return


def _heaviest(chips: list[ChipBatch], sensor: str) -> list[ChipBatch]:
    """The two chips with most of a sensor, and nothing else in them."""
    found = sorted((chip for chip in chips if sensor in chip.sensors), key=lambda chip: -amount(chip, sensor))[:2]
    return [
        ChipBatch(
            chip.origin,
            chip.size,
            chip.column,
            chip.voxel,
            chip.als if sensor == "als" else None,
            chip.gedi if sensor == "gedi" else None,
            {sensor: chip.rasters[sensor]} if sensor in chip.rasters else {},
        )
        for chip in found
    ]


def _cost(module: CrossModalPretraining, chips: list[ChipBatch], sensor: str, context: Any) -> Cost:
    one = peak(module.device, lambda: _dry_run(module, chips[:1], sensor, context()))
    if len(chips) == 1:
        return Cost(0, one, max(1, amount(chips[0], sensor)))
    two = peak(module.device, lambda: _dry_run(module, chips, sensor, context()))
    # The second chip is the lighter one. Half of the first is the least that another may count: measurements are not exact.
    lighter = max(0.5, amount(chips[1], sensor) / max(1, amount(chips[0], sensor)))
    more = int(min(one, max(one / 2, (two - one) / lighter)))
    return Cost(one - more, more, max(1, amount(chips[0], sensor)))


def _dry_run(module: CrossModalPretraining, chips: list[ChipBatch], sensor: str, context: AbstractContextManager[Any]) -> None:
    """Encode, answer what was hidden, and take the gradients of both without keeping them."""
    if not chips:
        return
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def go_back(value: Tensor) -> None:
        if value.requires_grad:
            torch.autograd.grad(value, parameters, allow_unused=True)

    with torch.enable_grad(), context:
        piece = collate(chips).to(module.device)
        found = module.encode(piece, sensor)
        go_back(found.shared.float().sum() + found.features.float().sum())
        del found
        if module.hparams["retention"]:
            answer = module.answer(piece, sensor, (0,), 0)
            if answer is not None:
                go_back(answer[0])


def _besides(module: CrossModalPretraining, chips: list[ChipBatch], batch_size: int, context: Any) -> int:
    """Bytes of a step that pieces do not change: gradients and optimiser, batches, embeddings, contrast."""
    encoder = next(iter(module.encoders.values()))
    weights = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    sites = batch_size * max((chip.columns for chip in chips), default=0)
    views = 2 * module.hparams["pairs"] if not module.alignment.every_sensor else len(module.sensors)
    views *= 3 if module.hparams["date_positives"] else 1
    # Each column's shared and private part, the unit vector, and a gradient of each.
    embeddings = views * sites * 4 * 2 * (2 * encoder.shared_dim + encoder.width)
    batches = 0 if module.device.type == "cuda" else _BATCHES_HELD * batch_size * max(map(_bytes, chips), default=0)
    compared = min(sites, module.contrast.max_columns)

    def contrasted() -> None:
        with torch.enable_grad(), context():
            one, other = (torch.rand(compared, encoder.shared_dim, device=module.device).requires_grad_() for _ in range(2))
            present = torch.ones(compared, dtype=torch.bool, device=module.device)
            side = torch.zeros(compared, 1, dtype=torch.int64)
            batch = ChipBatch(torch.cat([side, torch.arange(compared)[:, None]], dim=1), 1, 1.0, 1.0)
            embedded = {"a": Embedded(one, present), "b": Embedded(other, present)}
            loss, _ = module.contrast.alone(batch, ("a", "b"), embedded, stream(0))
            if loss is not None:
                torch.autograd.grad(loss, [one, other])

    contrasted()
    return 3 * weights + embeddings + batches + peak(module.device, contrasted)


def _bytes(item: object) -> int:
    """Of the tensors of an observation or a batch."""
    if isinstance(item, Tensor):
        return item.numel() * item.element_size()
    if isinstance(item, Mapping):
        return sum(map(_bytes, item.values()))
    return sum(_bytes(getattr(item, field.name)) for field in fields(item)) if hasattr(item, "__dataclass_fields__") else 0  # type: ignore[arg-type]


def _agreed(costs: Mapping[str, Cost], names: tuple[str, ...], device: torch.device) -> dict[str, Cost]:
    """The largest of every process, in whole MiB, so that all of them plan alike."""
    nothing = Cost(0, 0, 0)
    found = [costs.get(name, nothing) for name in names]
    largest = largest_over_ranks(torch.tensor([[c.fixed, c.chip, c.amount] for c in found], dtype=torch.int64, device=device))
    return {
        name: Cost(*(-(-size // _MiB) * _MiB for size in (fixed, chip)), number)
        for name, (fixed, chip, number) in zip(names, largest.tolist(), strict=True)
    }
