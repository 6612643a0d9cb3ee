"""Regression trees as plain arrays: what a forest and boosted trees are made of, stored and applied without scikit-learn.

All trees lie one behind the other in arrays of nodes. A cell starts at a tree's root and goes left where its feature is at most
the threshold, else right, until it reaches a leaf:

    feature   [M] int32    band that a node asks for; -1 for a leaf
    threshold [M] float64
    left      [M] int32    number of the node for at most the threshold, counted over all trees; 0 for a leaf
    right     [M] int32
    value     [M] float64  of a leaf
    roots     [T] int32    number of the first node of each tree

Features are rounded to float32 before they are compared, as scikit-learn does, so that the two predict the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fusion3d.tasks.regressors.protocol import Float64, numbers

Int32 = npt.NDArray[np.int32]
_CELLS = 16_384
"""Cells that go down the trees at once: their bands stay in the processor's cache."""


@dataclass(frozen=True)
class Trees:
    """The arrays of the module's drawing."""

    roots: Int32
    feature: Int32
    threshold: Float64
    left: Int32
    right: Int32
    value: Float64

    @classmethod
    def of(cls, trees: Iterable[Any]) -> Self:
        """From fitted regression trees of scikit-learn."""
        parts: dict[str, list[npt.NDArray[Any]]] = {item.name: [] for item in fields(cls)}
        start = 0
        for each in (estimator.tree_ for estimator in trees):
            leaf = each.children_left < 0
            parts["roots"].append(np.array([start]))
            parts["feature"].append(np.where(leaf, -1, each.feature))
            parts["threshold"].append(np.where(leaf, 0.0, each.threshold))
            parts["left"].append(np.where(leaf, 0, each.children_left + start))
            parts["right"].append(np.where(leaf, 0, each.children_right + start))
            parts["value"].append(each.value[:, 0, 0])
            start += each.node_count
        reals = ("threshold", "value")
        joined: dict[str, Any] = {
            name: np.concatenate(found).astype(np.float64 if name in reals else np.int32) for name, found in parts.items()
        }
        return cls(**joined)

    @property
    def count(self) -> int:
        return len(self.roots)

    def sum(self, bands: npt.NDArray[np.floating], *, scale: float = 1.0, start: float = 0.0) -> Float64:
        """start + the sum over trees of scale * value, [...] from [D, ...], added in the order of the trees."""
        cells = _cells(bands)
        total = np.full(len(cells), start)
        for first in range(0, len(cells), _CELLS):
            part = slice(first, first + _CELLS)
            for root in self.roots:
                total[part] += scale * self.value[self._leaves(int(root), cells[part])]
        return total.reshape(bands.shape[1:])

    def leaves(self, bands: npt.NDArray[np.floating]) -> Iterator[npt.NDArray[np.intp]]:
        """Tree by tree, the node [...] at which each of the cells [D, ...] ends."""
        cells = _cells(bands)
        for root in self.roots:
            parts = [self._leaves(int(root), cells[first : first + _CELLS]) for first in range(0, len(cells), _CELLS)]
            yield np.concatenate([np.zeros(0, np.intp), *parts]).reshape(bands.shape[1:])

    def _leaves(self, root: int, cells: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
        """[n] node at which each of the cells [n, D] ends."""
        node = np.full(len(cells), root, np.intp)
        moving = np.arange(len(cells)) if self.feature[root] >= 0 else np.zeros(0, np.intp)
        while moving.size:
            at = node[moving]
            at = np.where(cells[moving, self.feature[at]] <= self.threshold[at], self.left[at], self.right[at])
            node[moving] = at
            moving = moving[self.feature[at] >= 0]
        return node

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """By name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], dimensions: int) -> Self:
        """The inverse of `arrays`; KeyError or ValueError where they are no trees on that many features."""
        nodes = len(arrays["feature"])
        found: dict[str, Any] = {name: numbers(arrays[name], (nodes,)) for name in ("threshold", "value")}
        for name in ("roots", "feature", "left", "right"):
            given = np.asarray(arrays[name])
            if given.ndim != 1 or given.dtype.kind not in "iu" or (name != "roots" and len(given) != nodes):
                raise ValueError(f"{name} of the trees is not a list of {nodes} whole numbers")
            found[name] = given.astype(np.int32)
        feature, number = found["feature"], np.arange(nodes)
        inner = feature >= 0
        # children behind their parent: a way down always ends
        ordered = all(((found[side] > number) & (found[side] < nodes))[inner].all() for side in ("left", "right"))
        rooted = len(found["roots"]) and ((found["roots"] >= 0) & (found["roots"] < nodes)).all()
        if not (ordered and rooted and (feature < dimensions).all()):
            raise ValueError("the trees' nodes do not lead to leaves")
        return cls(**found)


def _cells(bands: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """[n, D] from [D, ...]."""
    return np.ascontiguousarray(bands.reshape(len(bands), -1).T, dtype=np.float32)
