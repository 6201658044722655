"""Figures and pictures: places on the axis, aligned strips, nothing where there is nothing to show."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from report_samples import audited, full_measurements, measured

from erasediff.errors import BadInput
from erasediff.report.curves import relearning
from erasediff.report.figures import MOST_LAYERS, layers, overview, per_class
from erasediff.report.pictures import LARGEST_SIDE, sheets, strip


def decoded(markup: str) -> Image.Image:
    data = re.search(r"base64,([^\"]+)", markup)
    assert data is not None
    return Image.open(io.BytesIO(base64.b64decode(data[1])))


def test_dots_stand_at_their_value_and_stay_on_the_axis():
    html = overview(audited(measured("forget_rate", value=0.25), measured("precision", value=1.7, low=1.5, high=2.0)))
    assert 'class="mark s-erased" style="left:25.00%"' in html
    assert 'style="left:24.00%;width:2.00%"' in html and 'style="left:100.00%"' in html


def test_no_figure_without_its_measure():
    nothing = audited(measured("something_else"))
    assert not overview(nothing) and not per_class(nothing) and not layers(nothing) and relearning(nothing) == []


def test_classes_compare_the_erased_model_with_the_base_model():
    html = per_class(audited(*full_measurements()))
    assert html.count('class="bar s-erased"') == 2 and html.count('class="mark s-base" style') == 2
    assert "s-control" not in html and "s-retrained" not in html


def test_the_largest_layer_fills_the_axis_and_many_are_cut():
    changes = {f"down_blocks.{i}": 0.01 * (i + 1) for i in range(40)}
    html = layers(audited(measured("parameter_change", detail={"layers": changes})))
    assert html.count('class="bar') == MOST_LAYERS and "width:100.00%" in html
    assert html.index(">down_blocks.38<") < html.index(">down_blocks.39<") and ">down_blocks.0<" not in html
    assert "The 24 that changed most, of 40." in html


def test_one_curve_a_k_with_a_line_a_subject():
    found = relearning(audited(*full_measurements()))
    assert [what for what, _ in found] == ["10 forgotten images"]
    assert found[0][1].count("<polyline") == 4 and "60.0 % at step 40" in found[0][1]


def test_strips_of_a_sheet_share_columns_though_one_has_fewer_pictures():
    images = np.full((3, 8, 8, 1), 255, np.uint8)
    (sheet,) = sheets({"base": {"forget": images}, "erased": {"forget": images[:2]}})
    full, short = (decoded(image) for _, image in sheet.strips)
    assert [s for s, _ in sheet.strips] == ["base", "erased"]
    assert full.size == short.size == (3 * 8 + 2, 8)
    assert short.convert("RGBA").getpixel((25, 4))[3] == 0 and full.convert("RGBA").getpixel((25, 4))[3] == 255


def test_tiny_pictures_keep_their_pixels_and_large_ones_are_scaled():
    tiny = strip(np.zeros((1, 8, 8, 1), np.uint8), alt="x", columns=1)
    large = strip(np.zeros((1, 512, 256, 3), np.uint8), alt="x", columns=1)
    assert "pixelated" in tiny and "pixelated" not in large
    assert decoded(large).size == (LARGEST_SIDE // 2, LARGEST_SIDE)


def test_colours_survive():
    colours = np.array([[[[255, 0, 0]]], [[[0, 0, 255]]]], np.uint8)
    shown = decoded(strip(colours, alt="x", columns=2)).convert("RGBA")
    assert shown.getpixel((0, 0)) == (255, 0, 0, 255) and shown.getpixel((2, 0)) == (0, 0, 255, 255)


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 1)), np.zeros((2, 8, 8, 2), np.uint8)]
)
def test_other_arrays_are_refused(bad):
    with pytest.raises(BadInput, match="uint8"):
        sheets({"erased": {"forget": bad}})
