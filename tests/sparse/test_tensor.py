import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import voxelize
from fusion3d.sparse import SparseTensor, StridedConv3d, SubmanifoldConv3d


def tensor(channels=2):
    coordinates = voxelize(torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 3, 3], [1, 0, 3, 3]])).coordinates
    return SparseTensor(torch.randn(4, channels), coordinates)


def test_layers_on_the_same_voxels_share_one_map():
    x = tensor()
    once = x.submanifold_map(3, 1)
    y = SubmanifoldConv3d(2, 3)(x)
    assert y.submanifold_map(3, 1) is once
    assert y.submanifold_map(3, 2) is not once


def test_levels_keep_their_own_maps():
    x = tensor()
    coarse = StridedConv3d(2, 2)(x)
    assert coarse.stride == 2
    assert coarse.submanifold_map(3, 1).outputs == coarse.voxels == 3
    assert x.submanifold_map(3, 1).outputs == x.voxels == 4


def test_unrelated_tensors_do_not_share_maps():
    one, other = tensor(), tensor()
    one.submanifold_map(3, 1)
    assert not other.maps


@pytest.mark.parametrize("features", [torch.ones(3, 2), torch.ones(4)])
def test_features_that_do_not_fit_the_coordinates_are_refused(features):
    with pytest.raises(ConfigError, match=r"\[V, C\]"):
        SparseTensor(features, tensor().coordinates)
