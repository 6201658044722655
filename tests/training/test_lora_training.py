"""A LoRA in training: nothing changes at first, theta_0 is the same weights, and merging is what was trained."""

import copy
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.conftest import make_squares
from tests.families import _tiny_text

from erasediff.api.erase import erase
from erasediff.data.pairs import Pairs
from erasediff.data.targets import Class, split
from erasediff.errors import BadInput
from erasediff.families import adopt
from erasediff.families.tiny import TINY
from erasediff.methods.erasediff import EraseDiff
from erasediff.training.config import TrainingConfig
from erasediff.training.context import Context
from erasediff.training.loop import start, take_step
from erasediff.training.lora import SwitchedOff, attach
from erasediff.training.processes import Processes

CONFIG = TrainingConfig(train_batch_size=4, learning_rate=1e-2, rank=2, lora_alpha=3.0)
MODELS = {**TINY, "stable_diffusion": lambda: adopt(_tiny_text.stable_diffusion()).with_prompts(["a cat", "a dog"])}
FAMILIES = ["unet2d", "unet2d-unconditional", "dit", "stable_diffusion"]


def asked(model, denoiser=None):
    shape = model.encode(torch.zeros(2, *model.image_shape)).shape
    x, t = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 60])
    with torch.no_grad():
        return model.ask(denoiser or model.denoiser, x, t, model.conditions.own(torch.tensor([0, 1])))


def session(family="unet2d", **changes):
    model, data = TINY[family](), make_squares()
    divided = split([Class(1)], data)
    model.conditions = replace(model.conditions, excluded=divided.classes)
    pairs = Pairs(data, divided.retain, divided.forget, batch_size=4, seed=0)
    return start(model, EraseDiff(forget_target="noise"), pairs, replace(CONFIG, **changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_with_b_at_zero_it_predicts_what_the_base_predicts_bit_for_bit(family):
    model = MODELS[family]()
    model.denoiser.requires_grad_(False)  # as under the adapters: with a gradient products may be folded otherwise
    kind, config, before = type(model.denoiser), model.denoiser.config, asked(model)
    adapters = attach(model.denoiser, CONFIG)
    assert torch.equal(asked(model), before)
    assert (type(model.denoiser), model.denoiser.config) == (kind, config)
    assert all(b.abs().sum() == 0 for n, b in adapters.trained.items() if ".lora_B." in n)
    assert all(a.abs().sum() > 0 for n, a in adapters.trained.items() if ".lora_A." in n)


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_it_predicts_what_it_predicted_attached_and_no_adapter_is_left(family):
    model = MODELS[family]()
    names, before = list(model.denoiser.state_dict()), asked(model)
    adapters = attach(model.denoiser, CONFIG)
    with torch.no_grad():
        for weight in adapters.trained.values():
            weight.normal_(std=0.1, generator=torch.Generator().manual_seed(len(weight)))
    attached = asked(model)
    assert (attached - before).abs().max() > 1e-3
    lora = adapters.merge()
    assert torch.allclose(asked(model), attached, atol=1e-5)
    assert list(model.denoiser.state_dict()) == names
    assert not hasattr(model.denoiser, "peft_config")
    assert (lora.rank, lora.alpha, lora.layers) == (2, 3.0, list(adapters.layers))


def test_convolutions_take_it_where_a_glob_names_them():
    model = TINY["unet2d"]()
    adapters = attach(model.denoiser, replace(CONFIG, rank=1, parameters="*"))
    kinds = {type(layer.get_base_layer()).__name__ for layer in adapters.layers.values()}
    assert kinds == {"Linear", "Conv2d"}
    with torch.no_grad():
        for weight in adapters.trained.values():
            weight.normal_(std=0.1, generator=torch.Generator().manual_seed(len(weight)))
    attached = asked(model)
    adapters.merge()
    assert torch.allclose(asked(model), attached, atol=1e-5)


def test_a_named_set_gives_adapters_to_its_linear_layers():
    adapters = attach(TINY["unet2d"]().denoiser, replace(CONFIG, parameters="full"))
    assert {type(layer.get_base_layer()).__name__ for layer in adapters.layers.values()} == {"Linear"}
    assert "time_embedding.linear_1" in adapters.layers


def test_a_layer_whose_name_ends_like_another_gets_none():
    """peft takes a list of names for endings: proj_out would mean every block's."""
    unet = _tiny_text.unet()
    whole = attach(unet, replace(CONFIG, parameters="mid_block.attentions.0.transformer_blocks.0.attn1.to_q"))
    attached = {n.partition(".lora_")[0] for n, _ in unet.named_parameters() if ".lora_" in n}
    assert attached == set(whole.layers) == {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q"}


def test_the_beginning_is_a_function_of_the_seed_alone():
    def beginning(seed, disturb):
        torch.manual_seed(disturb)
        kept = torch.random.get_rng_state()
        found = attach(TINY["unet2d"]().denoiser, replace(CONFIG, seed=seed)).trained
        torch.manual_seed(disturb)
        assert torch.equal(torch.random.get_rng_state(), kept)
        return [w.detach().clone() for w in found.values()]

    first, second, other = beginning(0, 1), beginning(0, 2), beginning(1, 1)
    assert all(map(torch.equal, first, second))
    assert not all(map(torch.equal, first, other))


def test_theta_0_is_no_copy_and_stays_the_base(monkeypatch):
    base = TINY["unet2d"]()
    base.denoiser.requires_grad_(False)
    context = sys.modules["erasediff.training.context"]
    monkeypatch.setattr(context, "copy", SimpleNamespace(deepcopy=lambda *_: pytest.fail("the weights were copied")))
    s = session()
    assert isinstance(s.context.teacher, SwitchedOff)
    for _ in range(3):
        take_step(s)
    noisy = s.context.noised(s.pairs.at(0).forget)
    frozen = s.context.predict(noisy, s.model.conditions.own(s.pairs.at(0).forget.labels), frozen=True)
    own = s.model.conditions.own(s.pairs.at(0).forget.labels)
    with torch.no_grad():
        assert torch.equal(frozen, base.ask(base.denoiser, noisy.x_t, noisy.t, own))
        assert not torch.allclose(frozen, s.model.ask(s.model.denoiser, noisy.x_t, noisy.t, own), atol=1e-5)
    assert not frozen.requires_grad


def test_asking_theta_0_between_forward_and_backward_changes_no_gradient():
    def gradients(between):
        model = TINY["unet2d"]()
        trained = attach(model.denoiser, CONFIG).trained
        with torch.no_grad():
            for weight in trained.values():
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
        context = Context(model, trained, Processes.start(), seed=0, micro_batch=2, frozen=False)
        teacher = SwitchedOff(attach_again(model, trained))
        x, t, labels = torch.ones(2, 1, 8, 8), torch.tensor([3, 60]), torch.tensor([0, 1])
        loss = model.ask(context.student, x, t, labels).square().mean()
        if between:
            model.ask(teacher, x, t, labels)
        loss.backward()
        return [p.grad for p in trained.values()]

    assert all(map(torch.equal, gradients(False), gradients(True)))


def attach_again(model, trained):
    from erasediff.training.lora import Adapters

    names = dict.fromkeys(n.partition(".lora_")[0] for n in trained)
    return Adapters(model.denoiser, 2, 3.0, {n: model.denoiser.get_submodule(n) for n in names}, trained)


@pytest.mark.parametrize(
    "options", [{"gradient_checkpointing": True}, {"mixed_precision": "bf16"}, {"channels_last": True}]
)
def test_the_loops_options_go_with_it(options):
    s = session(**options)
    for _ in range(2):
        assert torch.isfinite(take_step(s).log["grad_norm"])


def test_a_rank_above_a_layers_smaller_side():
    denoiser = TINY["unet2d"]().denoiser
    most = min(denoiser.mid_block.attentions[0].to_q.weight.shape)
    attach(copy.deepcopy(denoiser), replace(CONFIG, rank=most))
    with pytest.raises(
        BadInput, match=rf"rank {most + 1} is more than layer mid_block.attentions.0.to_q has: {most} at"
    ):
        attach(denoiser, replace(CONFIG, rank=most + 1))
    assert not any(".lora_" in n for n, _ in denoiser.named_parameters())


def test_weights_without_a_layer_for_it():
    with pytest.raises(BadInput, match=r"none of a layer that takes a LoRA: needed are Linear or Conv2d"):
        attach(TINY["unet2d"]().denoiser, replace(CONFIG, parameters="*norm*"))


def test_without_peft_the_extra_to_install_is_named(monkeypatch, squares, tmp_path):
    pipeline = TINY["unet2d"]().pipeline()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(BadInput, match=r"pip install .erasediff\[lora\]."):
        erase(pipeline, "class:1", squares, output_dir=tmp_path / "run", rank=2, quiet=True)
    assert not (tmp_path / "run").exists()


def test_the_extra_that_is_named_exists():
    import tomllib
    from pathlib import Path

    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert any(entry.startswith("peft") for entry in extras["lora"])
