"""What a plan leaves to ``erase``, which decides by the model: learning rates by family, and how files are built."""

import pytest
from tests.api._lora_runs import captioned
from tests.conftest import make_squares
from tests.families import _tiny_text

from erasediff import families
from erasediff.api.attempt import attempt
from erasediff.api.erase import erase
from erasediff.api.export import export
from erasediff.api.plan import parse
from erasediff.api.planned import _check_models, _expected
from erasediff.errors import BadInput
from erasediff.families.tiny import TINY
from erasediff.files import read_json

SMALL = {"max_train_steps": 1, "train_batch_size": 4}
DATA = {"unet2d": make_squares, "dit": make_squares, "stable_diffusion": captioned}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory of each family, and the last as a file."""
    root = tmp_path_factory.mktemp("models")
    for name in ("unet2d", "dit"):
        TINY[name]().save(root / name)
    families.adopt(_tiny_text.stable_diffusion()).save(root / "stable_diffusion")
    export(root / "stable_diffusion", "single_file", root / "file")
    return root


def plan(model, **changes):
    methods = {"erasediff": {}, "adapter": {"method": "erasediff", "training": {"rank": 2}}}
    methods["told"] = {"method": "erasediff", "training": {"rank": 2, "learning_rate": 0.25}}
    target = "class:1" if "file" not in str(model) and "stable" not in str(model) else "class:a cat"
    return parse({"model": str(model), "targets": [target], "methods": methods, "training": SMALL, **changes})


@pytest.mark.parametrize(
    ("family", "whole", "lora"), [("unet2d", 5e-4, 1e-3), ("dit", 1e-4, 1e-3), ("stable_diffusion", 1e-5, 1e-4)]
)
def test_a_plan_takes_the_learning_rate_of_the_family_as_erase_does(place, family, whole, lora):
    made, data = plan(place / family), DATA[family]()
    found = {p.parts[-2]: entry["training"]["learning_rate"] for p, entry in _expected(made, data).items()}
    assert found == {"erasediff": whole, "adapter": lora, "told": 0.25}
    (target,) = made.targets()
    alone = erase(place / family, target, data, dry_run=True, **SMALL, rank=2).record
    assert alone["training"]["learning_rate"] == found["adapter"]


@pytest.mark.parametrize(("family", "betas"), [("unet2d", (0.5, 0.9)), ("dit", (0.9, 0.999))])
def test_the_decays_of_adam_are_the_familys_unless_told(place, family, betas):
    data = DATA[family]()
    for told, first in (({}, betas[0]), ({"adam_beta1": 0.25}, 0.25)):
        training = erase(place / family, "class:1", data, dry_run=True, **SMALL, **told).record["training"]
        assert (training["adam_beta1"], training["adam_beta2"]) == (first, betas[1])


def test_the_decays_for_samples_are_adams_own(place, tmp_path):
    (tmp_path / "gone.txt").write_text("0\n1\n")
    target = f"samples:{tmp_path / 'gone.txt'}"
    training = erase(place / "unet2d", target, DATA["unet2d"](), dry_run=True, **SMALL).record["training"]
    assert (training["adam_beta1"], training["adam_beta2"]) == (0.9, 0.999)


def test_a_plan_on_a_single_file_says_how_it_is_built(place, tmp_path):
    file, sd, data = place / "file/model.safetensors", place / "stable_diffusion", captioned()
    made = plan(file, model_config=str(sd))
    _check_models(plan(sd), data)
    _expected(made, data)
    job = next(j for j in made.jobs if j.label == "erasediff")
    attempt(job, tmp_path / "run", data, quiet=True)
    record = read_json(tmp_path / "run/run.json")
    assert record["base_model"]["config"] == str(sd) and record["training"]["learning_rate"] == 1e-5
    with pytest.raises(BadInput, match="no model that was given is one; leave it out"):
        _check_models(plan(sd, model_config=str(sd)), data)
