"""Tables of footprints: filters, products of one shot joined, rows chosen and put together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion3d.errors import ConfigError
from fusion3d.io.gedi import FootprintFilter, FootprintTable, join_products, read_footprints
from fusion3d.io.gedi_products import ragged_rows, row_splits_of
from tests.io.gedi_files import FIRST_SHOT, UTM23S, beam_l1b, beam_l2a, profile, write


@pytest.fixture
def waveforms(tmp_path) -> FootprintTable:
    """Seven shots of 2 to 8 bins."""
    beam = beam_l1b([[100 + k for k in range(bins)] for bins in range(2, 9)])
    return read_footprints(write(tmp_path / "seven.h5", {"BEAM0101": beam}, "GEDI_L1B"), UTM23S)


class TestFilter:
    @pytest.fixture
    def shots(self, tmp_path) -> FootprintTable:
        beam = beam_l2a(4)
        beam["quality_flag"][0] = 0
        beam["degrade_flag"][1] = 30
        beam["sensitivity"][2] = 0.85
        beam["solar_elevation"][3] = 40
        return read_footprints(write(tmp_path / "l2a.h5", {"BEAM0001": beam, "BEAM0101": beam_l2a(1)}), UTM23S)

    @pytest.mark.parametrize(
        ("options", "kept"),
        [
            ({}, [0, 0, 0, 1, 1]),
            ({"quality": False}, [1, 0, 0, 1, 1]),
            ({"degrade": False}, [0, 1, 0, 1, 1]),
            ({"min_sensitivity": 0.8}, [0, 0, 1, 1, 1]),
            ({"min_sensitivity": 0.98}, [0, 0, 0, 0, 0]),
            ({"beams": ("BEAM0001",)}, [0, 0, 0, 1, 0]),
            ({"beams": (5,)}, [0, 0, 0, 0, 1]),
            ({"power_only": True}, [0, 0, 0, 0, 1]),
            ({"night_only": True}, [0, 0, 0, 0, 1]),
            ({"quality": False, "degrade": False, "min_sensitivity": 0}, [1, 1, 1, 1, 1]),
        ],
    )
    def test_each_rule_alone(self, shots, options, kept):
        np.testing.assert_array_equal(FootprintFilter(**options).keep(shots), np.array(kept, bool))

    def test_what_the_product_does_not_state_rejects_nothing(self, tmp_path):
        table = read_footprints(write(tmp_path / "l1b.h5", {"BEAM0101": beam_l1b([[110, 100]])}, "GEDI_L1B"), UTM23S)
        assert FootprintFilter(min_sensitivity=0.98).keep(table).all()

    def test_unknown_beam_is_refused(self):
        with pytest.raises(ConfigError, match="no beam 'BEAM0100'"):
            FootprintFilter(beams=("BEAM0100",))


class TestJoin:
    @pytest.fixture
    def tables(self, tmp_path) -> tuple[FootprintTable, FootprintTable]:
        """Waveforms of shots 0 and 1 (terrain 505 m), curves of shots 1 and 2 (ground 500 m)."""
        waveforms = write(tmp_path / "l1b.h5", {"BEAM0101": beam_l1b([[110, 100], [100, 110]])}, "GEDI_L1B")
        curves = write(tmp_path / "l2a.h5", {"BEAM0101": beam_l2a(2, FIRST_SHOT + 1)})
        return read_footprints(waveforms, UTM23S), read_footprints(curves, UTM23S)

    def test_shots_of_any_product_are_kept_once(self, tables):
        joined = join_products(tables)
        assert joined.product == "L1B+L2A"
        np.testing.assert_array_equal(joined.shot_number, FIRST_SHOT + np.arange(3, dtype=np.uint64))
        np.testing.assert_array_equal(np.diff(joined.row_splits), [2, 2, 101])
        np.testing.assert_array_equal(joined.quality_flag, [-1, 1, 1])

    def test_waveform_moves_to_the_ground_of_l2a(self, tables):
        joined = join_products(tables)
        np.testing.assert_allclose(profile(joined, 0)[0], [15, -5])
        np.testing.assert_allclose(profile(joined, 1)[0], [20, 0])
        np.testing.assert_allclose(joined.ground_elevation, [505, 500, 500])

    def test_location_is_taken_from_l2a(self, tables):
        np.testing.assert_allclose(join_products(tables).longitude, [-44.003, -44.0, -43.999])

    def test_attributes_are_merged_with_nan_where_unknown(self, tables):
        np.testing.assert_allclose(join_products(tables).attributes["rh100"], [np.nan, 10, 20], rtol=1e-6)

    def test_order_of_the_products_does_not_matter(self, tables):
        forward, backward = join_products(tables), join_products(tables[::-1])
        np.testing.assert_array_equal(forward.heights, backward.heights)
        np.testing.assert_array_equal(forward.x, backward.x)

    def test_a_shot_that_comes_twice_counts_once(self, tables):
        again = join_products([*tables, *tables])
        np.testing.assert_array_equal(again.heights, join_products(tables).heights)

    def test_neighbouring_shot_numbers_stay_apart_beyond_float64(self, tmp_path):
        path = write(tmp_path / "l2a.h5", {"BEAM0101": beam_l2a(5, 2**63 + 1)})
        table = read_footprints(path, UTM23S)
        assert len(join_products([table, table])) == 5
        assert table.shot_number[0] == 2**63 + 1

    def test_no_tables_are_refused(self):
        with pytest.raises(ConfigError):
            join_products([])


class TestTable:
    def test_selecting_by_mask_by_index_and_putting_together_again(self, waveforms):
        table = waveforms
        mask = np.arange(len(table)) % 3 == 0
        parts = [table.select(mask), table.select(np.flatnonzero(~mask))]
        whole = FootprintTable.concatenate(parts)
        back = whole.select(np.argsort(np.concatenate([np.flatnonzero(mask), np.flatnonzero(~mask)])))
        for field in ("shot_number", "x", "row_splits", "heights", "energy"):
            np.testing.assert_array_equal(getattr(back, field), getattr(table, field))

    def test_shot_numbers_of_another_type_are_refused(self, waveforms):
        table = waveforms
        with pytest.raises(ConfigError, match="lose digits"):
            FootprintTable(**(vars(table) | {"shot_number": table.shot_number.astype(np.float64)}))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(0, 5), max_size=12), st.data())
    def test_rows_of_a_ragged_array_are_those_of_a_list_of_lists(self, counts, data):
        row_splits = row_splits_of(np.array(counts, np.int64))
        lists = np.split(np.arange(row_splits[-1]), row_splits[1:-1]) if counts else []
        rows = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=8)) if counts else []
        samples, chosen = ragged_rows(row_splits, np.array(rows, np.int64))
        assert samples.tolist() == [int(v) for row in rows for v in lists[row]]
        assert np.diff(chosen).tolist() == [counts[row] for row in rows]
