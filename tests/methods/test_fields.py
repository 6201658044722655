"""Fields out of range are refused when a method is made, before anything is written."""

import pytest

from erasediff.errors import BadInput
from erasediff.methods import METHODS

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "field", "given"),
    [
        ("erasediff", "norm_floor", -1.0),
        ("erasediff", "eta", INF),
        ("erasediff", "eta_end", -0.1),
        ("erasediff", "multiplier", NAN),
        ("erasediff", "retain_focus", 1.5),
        ("erasediff", "repulsion", INF),
        ("weighted_sum", "multiplier", -1.0),
        ("fine_tune", "null_share", 5.0),
        ("neg_grad", "null_share", -1.0),
        ("grad_diff", "weight", NAN),
        ("retrack", "weight", INF),
        ("siss", "delete_share", -1.0),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(name, field, given):
    with pytest.raises(BadInput, match=rf"^{field} must .*got {given}"):
        METHODS[name](**{field: given})
