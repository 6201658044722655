"""What is drawn for a subject and judged, and what of the data it is compared with."""

import torch

from erasediff.auditing.drawing import Subject, judged
from tests.auditing._scene import scene
from tests.conftest import make_squares


def measured(**changes):
    there = scene(**changes)
    return {f.measurement.name: f.measurement for f in judged(Subject("erased", there.model, there.question))}


def test_a_target_class_with_held_out_images_only_does_not_stop_the_audit():
    """As where every image has a caption of its own: neighbours are those of the classes that show something."""
    data = make_squares()
    found = measured(held_out=data.held_out | (data.labels == 3), classes=(1, 3))
    assert found["retain_accuracy_neighbours"].detail["neighbours"]
    nothing = measured(held_out=data.labels == 1, classes=(1,), forget=torch.arange(0))
    assert "retain_accuracy" in nothing and "retain_accuracy_neighbours" not in nothing
