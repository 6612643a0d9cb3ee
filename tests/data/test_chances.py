from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion3d.data.chances import capped_chances, systematic


def test_chances_are_in_proportion_to_size():
    assert capped_chances([1, 2, 5], 1.0, 1.0).tolist() == pytest.approx([0.125, 0.25, 0.625])


def test_what_a_cap_cuts_off_goes_to_the_others_in_proportion():
    # 2 x 8/11 is over 1; the other 1 is shared 1 : 2.
    assert capped_chances([8, 1, 2], 1.0, 2).tolist() == pytest.approx([1.0, 1 / 3, 2 / 3])


def test_a_cap_that_is_reached_by_what_another_cap_frees():
    # First pass: .9 alone is over its cap; the freed .7 lifts the second over its own.
    assert capped_chances([9.0, 0.5, 0.5], [0.2, 0.3, 1.0], 1.0).tolist() == pytest.approx([0.2, 0.3, 0.5])


def test_all_are_certain_when_as_many_are_drawn():
    assert capped_chances([3, 1], 1.0, 2).tolist() == capped_chances([3, 1], 1.0, 5).tolist() == [1.0, 1.0]


@settings(max_examples=25, deadline=None)
@given(size=st.lists(st.floats(0.01, 10), min_size=1, max_size=8), count=st.integers(1, 4))
def test_systematic_draws_have_the_number_and_the_chances_asked_for(size, count):
    chance = capped_chances(size, 1.0, count)
    assert chance.sum() == pytest.approx(min(count, len(size)))
    starts = (np.arange(400) + 0.5) / 400
    draws = [systematic(chance, start) for start in starts]
    assert {len(set(drawn.tolist())) for drawn in draws} == {min(count, len(size))}
    rate = np.bincount(np.concatenate(draws), minlength=len(size)) / len(starts)
    assert np.abs(rate - chance).max() < 1 / 100
