"""A quantised base under a LoRA: theta_0 is it, nothing else changes, and what is saved belongs to whole weights."""

import importlib.util
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.api._lora_runs import captioned
from tests.conftest import make_squares
from tests.families import _tiny_text
from tests.training.test_lora_training import CONFIG, MODELS, asked, session
from torch import nn

import erasediff
from erasediff import families
from erasediff.errors import BadInput
from erasediff.families import adopt
from erasediff.families.tiny import TINY
from erasediff.methods.erasediff import EraseDiff
from erasediff.methods.selective_amnesia import SelectiveAmnesia
from erasediff.training.config import TrainingConfig
from erasediff.training.loop import start, take_step
from erasediff.training.lora import attach
from erasediff.training.processes import Processes
from erasediff.training.quantised import PACKERS, QuantisedLinear, quantise

ABSENT = importlib.util.find_spec("bitsandbytes") is None
KINDS = ["int8", pytest.param("nf4", marks=pytest.mark.skipif(ABSENT, reason="bitsandbytes is not installed"))]
FAMILIES = ["unet2d", "dit", "stable_diffusion"]
CPU = torch.device("cpu")
TEXT = ["stable_diffusion_xl", "stable_diffusion_3", "flux", "pixart"]


def unpacked(denoiser, kind):
    """``denoiser`` with its own Linear layers, whose weights are what the quantised ones stand for."""
    for module in denoiser.modules():
        if isinstance(module, nn.Linear):
            packed = PACKERS[kind](module.weight.detach(), torch.float32)
            module.weight.data = packed.unpack(packed.values, packed.scales)
    return denoiser


def test_int8_is_off_by_half_a_scale_at_most_and_a_row_of_zeros_stays():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-6, 1, 1e6, 1, 0])[:, None]
    packed = PACKERS["int8"](weight, torch.float32)
    off = (packed.unpack(packed.values, packed.scales) - weight).abs()
    assert packed.values.dtype == torch.int8 and packed.values.abs().amax(1).tolist() == [127] * 4 + [0]
    assert bool((off <= packed.scales[:, None] * 0.5001).all())
    assert torch.equal(off[4], torch.zeros(7))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_that_of_its_unpacked_weight_forward_and_backward(kind):
    layer = nn.Linear(24, 10)
    made, plain = QuantisedLinear(layer, kind, torch.float32, CPU), unpacked(layer, kind)
    x = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(0))
    found, expected = (x.clone().requires_grad_() for _ in range(2))
    a, b = made(found), plain(expected)
    a.square().sum().backward()
    b.square().sum().backward()
    assert torch.allclose(a, b, atol=1e-5) and torch.allclose(found.grad, expected.grad, atol=1e-4)
    assert not any(p.requires_grad for p in made.parameters())


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_holds_no_unpacked_weight(kind, precision):
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    layer, kept = QuantisedLinear(nn.Linear(64, 32), kind, dtype, CPU), []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        said = layer(torch.ones(2, 64, requires_grad=True))
    assert said.dtype == dtype
    assert sum(t.numel() * t.element_size() for t in kept) < 64 * 32 * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_at_step_0_it_predicts_what_the_quantised_base_predicts(family, kind):
    base, model = MODELS[family](), MODELS[family]()
    before = asked(base)
    held = quantise(model.denoiser, replace(CONFIG, quantize=kind), CPU)
    attach(model.denoiser, CONFIG, held)
    unpacked(base.denoiser, kind)
    assert torch.allclose(asked(model), asked(base), atol=1e-4)
    assert 0 < (asked(base) - before).abs().max() < 1


@pytest.mark.parametrize("family", TEXT)
def test_every_family_takes_it(family):
    pipeline = getattr(_tiny_text, family)()
    model = adopt(pipeline).with_prompts(["a cat", "a dog"])
    before = asked(model)
    attach(model.denoiser, CONFIG, quantise(model.denoiser, replace(CONFIG, quantize="int8"), CPU))
    assert 0 < (asked(model) - before).abs().max() < 0.5 * before.abs().max()


def test_theta_0_stays_the_quantised_base_while_training_moves():
    base = TINY["unet2d"]()
    made = session(quantize="int8")
    losses = [take_step(made).log["forget_loss"].item() for _ in range(30)]
    batch = made.pairs.at(0).forget
    noisy, own = made.context.noised(batch), made.model.conditions.own(batch.labels)
    unpacked(base.denoiser, "int8")
    with torch.no_grad():
        expected = base.ask(base.denoiser, noisy.x_t, noisy.t, own)
    assert torch.allclose(made.context.predict(noisy, own, frozen=True), expected, atol=1e-4)
    assert not torch.allclose(made.context.predict(noisy, own), expected, atol=1e-4)
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"mixed_precision": "bf16"}])
def test_the_loops_options_go_with_it(options):
    made = session(quantize="int8", channels_last=True, **options)
    for _ in range(2):
        assert torch.isfinite(take_step(made).log["grad_norm"])


def test_gradients_sample_by_sample_go_through_it():
    made = session(quantize="int8")
    quick = SelectiveAmnesia(fisher_samples=4, fisher_timesteps=1, replay_samples=4, replay_steps=2)
    model = TINY["unet2d"]()
    model.conditions = replace(model.conditions, excluded=(1,))
    again = start(model, quick, made.pairs, replace(CONFIG, quantize="int8"))
    assert torch.isfinite(take_step(again).log["grad_norm"])


def test_undone_every_weight_is_what_it_was_to_the_bit():
    model = TINY["unet2d"]()
    before = {name: tensor.clone() for name, tensor in model.denoiser.state_dict().items()}
    quantise(model.denoiser, replace(CONFIG, quantize="int8"), CPU).undo()
    after = model.denoiser.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[n], before[n]) for n in before)


def scene(family):
    if family == "stable_diffusion":
        return _tiny_text.stable_diffusion(), "class:a cat", captioned()
    return TINY[family]().pipeline(), "class:1", make_squares()


RUN = {"rank": 2, "quantize": "int8", "learning_rate": 1e-1, "lr_scheduler": "constant", "train_batch_size": 4}
RUN |= {"checkpointing_steps": 2, "quiet": True}
STEADY = EraseDiff(retain="distill", eta_end=0.3, retain_focus=0.0)  # the same at every length of the run


@pytest.mark.parametrize("family", ["unet2d", "stable_diffusion"])
def test_a_run_is_resumed_saved_and_read_on_the_base_in_full(family, tmp_path):
    pipeline, target, data = scene(family)
    families.adopt(pipeline).save(tmp_path / "base")
    asked = {"max_train_steps": 4, **RUN}
    whole = erasediff.erase(tmp_path / "base", target, data, STEADY, output_dir=tmp_path / "a", **asked)
    erasediff.erase(tmp_path / "base", target, data, STEADY, output_dir=tmp_path / "b", max_train_steps=2, **RUN)
    more = {"max_train_steps": 4, "resume_from_checkpoint": "latest", **RUN}
    again = erasediff.erase(tmp_path / "base", target, data, STEADY, output_dir=tmp_path / "b", **more)
    for name, (a, b) in whole.lora.tensors.items():
        assert torch.equal(a, again.lora.tensors[name][0]) and torch.equal(b, again.lora.tensors[name][1])
    base = families.load(tmp_path / "base").denoiser
    whole.lora.merge(base)
    read = families.load(tmp_path / "a").denoiser.state_dict()
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, read[name]) and torch.equal(tensor, whole.model.denoiser.state_dict()[name])
    assert whole.record["training"]["quantize"] == "int8"
    plan = whole.record["plan"]["memory"]
    asked = {**RUN, "quantize": None, "dry_run": True}
    assert plan["denoiser"] < erasediff.erase(pipeline, target, data, **asked).record["plan"]["memory"]["denoiser"]


def test_without_a_rank():
    with pytest.raises(BadInput, match=r"quantize int8 is for weights that stay as they are.*give a rank"):
        TrainingConfig(quantize="int8")


def test_an_unknown_kind():
    with pytest.raises(BadInput, match=r"quantize.*int4.*int8, nf4"):
        TrainingConfig(quantize="int4", rank=2)


def test_without_bitsandbytes_the_extra_is_named_and_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    asked = {**RUN, "quantize": "nf4", "output_dir": tmp_path / "run"}
    with pytest.raises(BadInput, match=r"nf4 needs bitsandbytes.*erasediff\[memory\]"):
        erasediff.erase(TINY["unet2d"]().pipeline(), "class:1", make_squares(), **asked)
    assert not (tmp_path / "run").exists()


def test_a_package_without_a_kernel_here(monkeypatch):
    def absent(*_, **__):
        raise NotImplementedError("Could not run 'x' on 'CPU'. And a long list.")

    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", SimpleNamespace(quantize_4bit=absent))
    with pytest.raises(BadInput, match=r"nf4 does not work on cpu with the .*: Could not run 'x' on 'CPU'; leave it"):
        quantise(TINY["unet2d"]().denoiser, replace(CONFIG, quantize="nf4"), CPU)


def test_several_processes(monkeypatch):
    monkeypatch.setattr(Processes, "world", property(lambda self: 2))
    with pytest.raises(BadInput, match=r"quantize int8 runs on one process, not on 2"):
        session(quantize="int8")


def test_a_denoiser_without_linear_layers():
    with pytest.raises(BadInput, match=r"for Linear layers, and a Conv2d has none"):
        quantise(nn.Conv2d(1, 1, 1), replace(CONFIG, quantize="int8"), CPU)
