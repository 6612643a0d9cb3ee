from __future__ import annotations

import pytest

from fusion3d.errors import ConfigError
from fusion3d.tasks.segmentation.asprs import class_name, parse_classes, point_legend


def test_codes_are_named_as_asprs_names_them():
    # LAS 1.4 R15, table 17
    assert [class_name(code) for code in (2, 5, 6, 9, 17)] == ["ground", "high vegetation", "building", "water", "bridge deck"]
    assert class_name(64) == "class 64"
    legend = point_legend((64, 2, 6))
    assert legend.codes == (2, 6, 64)
    assert legend.names == ("ground", "building", "class 64")


def test_lists_of_classes_are_read_in_any_order():
    assert parse_classes("6, 2,5,2") == (2, 5, 6)


@pytest.mark.parametrize("text", ["2", "2,2", "two,five", "2,300", "", "2;5"])
def test_what_is_no_list_of_classes_is_refused(text):
    with pytest.raises(ConfigError, match="--classes"):
        parse_classes(text)
