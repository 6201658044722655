"""The estimate of memory is what is really held: part by part, to the byte."""

import gc
import sys
from dataclasses import replace

import pytest
import torch
from tests.conftest import make_squares
from tests.families import _tiny_text
from tests.methods._miniatures import model as miniature
from tests.methods._miniatures import quick

from erasediff.data.pairs import Pairs
from erasediff.data.targets import Class, split
from erasediff.families.base import encoded_shape
from erasediff.families.tiny import TINY
from erasediff.families.unet2d import fresh
from erasediff.methods import METHODS
from erasediff.methods.base import WeightEdit, gradient_lists
from erasediff.methods.erasediff import EraseDiff
from erasediff.training import loop
from erasediff.training.config import TrainingConfig
from erasediff.training.lora import SwitchedOff
from erasediff.training.memory import Memory, batch_bytes, estimate, trained_shapes

CONFIG = TrainingConfig(train_batch_size=4, learning_rate=1e-3)


def size(*tensors):
    """Bytes of the storages behind ``tensors``, each once."""
    return sum({t.untyped_storage().data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def session(config, model=None, method=None):
    model, method, data = model or TINY["unet2d"](), method or EraseDiff(forget_target="noise"), make_squares()
    divided = split([Class(1)], data)
    model.conditions = replace(model.conditions, excluded=(1,))
    pairs = Pairs(data, divided.retain, divided.forget, batch_size=config.train_batch_size, seed=0)
    return loop.start(model, method, pairs, config)


def estimated(session):
    pair, model = session.pairs.at(0), TINY["unet2d"]()  # of a model that nothing was attached to
    batch = batch_bytes(model.image_shape, None, len(pair.retain), sides=2)
    needs, lists = session.method.needs, gradient_lists(session.method)
    return estimate(model.denoiser, session.config, frozen=needs.frozen, gradient_lists=lists, batch=batch)


def held(session):
    """The same parts, of the tensors that are there after a step."""
    loop.take_step(session)
    own = set(map(id, session.trained.values())) if session.adapters else set()
    denoiser = session.model.denoiser
    teacher, pair = session.context.teacher, session.pairs.at(0)
    copied = teacher is not None and not isinstance(teacher, SwitchedOff)
    states = [v for state in session.optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    return {
        "denoiser": size(*(p for p in [*denoiser.parameters(), *denoiser.buffers()] if id(p) not in own)),
        "adapters": size(*session.trained.values()) if session.adapters else 0,
        "frozen_copy": size(*teacher.parameters(), *teacher.buffers()) if copied else 0,
        "optimizer": size(*states),
        "average": size(*session.average.tensors().values()) if session.average else 0,
        "batch": size(pair.retain.images, pair.forget.images),
    }


CASES = {
    "full": {},
    "attention": {"parameters": "attention", "use_ema": False},
    "lora": {"rank": 2},
    "lora, convolutions": {"rank": 1, "parameters": "*"},
    "int8": {"rank": 2, "quantize": "int8"},
    "int8, bf16": {"rank": 2, "quantize": "int8", "mixed_precision": "bf16"},
    "nf4": {"rank": 2, "quantize": "nf4"},
}


@pytest.mark.parametrize("case", CASES)
def test_every_part_is_what_is_held(case):
    if "nf4" in case:
        pytest.importorskip("bitsandbytes")
    made = session(replace(CONFIG, **CASES[case]))
    said = estimated(made)
    for part, found in held(made).items():
        assert getattr(said, part) == found, part


def test_theta_0_is_a_second_copy_only_where_it_is_asked_and_there_is_no_lora():
    plain = session(CONFIG, method=METHODS["fine_tune"]())
    assert estimated(plain).frozen_copy == held(plain)["frozen_copy"] == 0
    full = estimated(session(CONFIG, method=EraseDiff(forget_target="noise", retain="distill")))
    assert full.frozen_copy == full.denoiser > 0
    assert estimated(session(replace(CONFIG, rank=2))).frozen_copy == 0


def test_eight_bits_hold_what_bitsandbytes_holds():
    pytest.importorskip("bitsandbytes")
    config = replace(CONFIG, use_8bit_adam=True)
    made = session(config, wide())
    assert any(p.numel() >= 4096 for p in made.trained.values())
    assert any(p.numel() < 4096 for p in made.trained.values())
    found = held(made)["optimizer"]
    said = [estimate(wide().denoiser, c, frozen=True, gradient_lists=3).optimizer for c in (config, CONFIG)]
    assert said[0] == found < said[1] / 3


def wide():
    """A model with weights of more and of fewer than 4096 elements."""
    return fresh((1, 8, 8), ["0", "1", "2", "3"], block_out_channels=(32, 32))


@pytest.mark.parametrize("name", [n for n in METHODS if not isinstance(METHODS[n](), WeightEdit)])
def test_as_many_gradients_are_held_as_the_method_says(name, monkeypatch):
    method = quick(name)
    family = "stable_diffusion" if method.needs.anchor else "unet2d"
    model = miniature(name, family)
    data = make_squares() if family == "unet2d" else captioned()
    divided = split([Class(1)], data)
    pairs = Pairs(data, divided.retain, divided.forget, batch_size=3, seed=0)
    made = loop.start(model, method, pairs, replace(CONFIG, train_batch_size=3, use_ema=False))
    shapes, most = {p.shape for p in made.trained.values()}, [0]

    def known():
        of = [*made.model.denoiser.parameters(), *made.state.values()]
        of += [] if made.context.teacher is None else made.context.teacher.parameters()
        return {t.data_ptr() for t in of}

    def look():
        gc.collect()
        tensors = [x for x in gc.get_objects() if type(x) is torch.Tensor and x.shape in shapes and x.grad_fn is None]
        alive = {t.data_ptr(): t.numel() for t in tensors if t.data_ptr() not in old and t.is_floating_point()}
        most[0] = max(most[0], sum(alive.values()))

    def looking(function):
        def call(*given, **options):
            made_of_it = function(*given, **options)
            look()
            return made_of_it

        return call

    gc.collect()
    old = known() | {x.data_ptr() for x in gc.get_objects() if type(x) is torch.Tensor and x.shape in shapes}
    for module in [m for n, m in sys.modules.items() if n.startswith("erasediff.methods.") and hasattr(m, "combine")]:
        monkeypatch.setattr(module, "combine", looking(module.combine))
    monkeypatch.setattr(loop.torch.nn.utils, "get_total_norm", looking(torch.nn.utils.get_total_norm))
    loop.take_step(made)
    assert round(most[0] / sum(p.numel() for p in made.trained.values()), 1) == gradient_lists(method)


def captioned():
    import numpy as np

    from erasediff.data.images import build

    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    return build("captioned", images, np.arange(24) % 4, class_names=["a cat", "a red hat", "a chair", "two dogs"])


def test_a_list_of_gradients_is_as_large_as_what_is_trained():
    said = estimated(session(CONFIG))
    assert said.gradients == 3 * said.denoiser == 3 * said.average


def test_the_meta_device_says_the_same():
    here = TINY["unet2d"]().denoiser
    with torch.device("meta"):
        there = type(here).from_config(here.config)
    for changes in CASES.values():
        config, options = replace(CONFIG, **changes), {"frozen": True, "gradient_lists": 3}
        assert estimate(here, config, **options) == estimate(there, config, **options)
        assert trained_shapes(here, config) == trained_shapes(there, config)


def test_the_total_is_the_sum_and_what_is_left_out_is_said():
    parts = dict(zip(Memory.__dataclass_fields__, range(1, 9), strict=True))
    record = Memory(**parts).record()
    assert record["total"] == 36 and {k: record[k] for k in parts} == parts
    assert record["not_counted"][0].startswith("activations")


@pytest.mark.parametrize("family", ["unet2d", "dit", "stable_diffusion", "stable_diffusion-v"])
def test_the_shape_of_latents_is_that_of_what_is_encoded(family):
    model = miniature("esd", family)
    assert encoded_shape(model) == model.encode(torch.zeros(1, *model.image_shape)).shape[1:]


def test_buffers_count():
    unet = _tiny_text.unet()
    before = estimate(unet, CONFIG, frozen=False, gradient_lists=1).denoiser
    unet.register_buffer("more", torch.zeros(10))
    assert estimate(unet, CONFIG, frozen=False, gradient_lists=1).denoiser == before + 40
