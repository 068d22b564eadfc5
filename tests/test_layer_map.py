"""Layer maps, checked against both depths."""

import pytest

from tkd_hf.errors import InputError
from tkd_hf.layer_map import LAYER_MAPS, layer_map


@pytest.mark.parametrize(
    ("chosen", "layers"),
    [
        ("uniform", [1, 3, 5, 7, 9, 11]),
        ("last", [6, 7, 8, 9, 10, 11]),
        ("skip", [0, 2, 4, 6, 8, 10]),
        ("0,2,4,7,9,11", [0, 2, 4, 7, 9, 11]),
        ([0, 2, 4, 7, 9, 11], [0, 2, 4, 7, 9, 11]),
        ("[5, 5, 5, 5, 5, 5]", [5, 5, 5, 5, 5, 5]),
    ],
)
def test_six_of_twelve(chosen, layers):
    assert layer_map(chosen, 6, 12) == layers


@pytest.mark.parametrize("name", LAYER_MAPS)
def test_as_many_layers_as_the_teacher_are_all_of_them(name):
    for depth in range(1, 13):
        assert layer_map(name, depth, depth) == list(range(depth))
        assert len(set(layer_map(name, depth, 12))) == depth


@pytest.mark.parametrize(
    ("chosen", "depths", "message"),
    [
        ("middle", (2, 4), r"layer_map='middle' is neither uniform, last, skip nor a list"),
        ("1,2,3", (2, 4), r"layer_map='1,2,3' names 3 layers for a student of 2"),
        ("1,4", (2, 4), r"layer_map='1,4' for a teacher of 4 layers; name some from 0 to 3"),
        ("-1,2", (2, 4), r"from 0 to 3"),
        ("uniform", (4, 2), r"cannot spread 4 student layers over 2 of the teacher; .* such as 0,0,1,1"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(chosen, depths, message):
    with pytest.raises(InputError, match=message):
        layer_map(chosen, *depths)
