"""Drawing the images that a model must show: the callable that ``data`` is handed, and the sets on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from erasediff.api.directory import RunDirectory
from erasediff.api.showing import Shown
from erasediff.data import generated
from erasediff.data.generated import Draw, Generation
from erasediff.data.images import ImageData, as_bytes
from erasediff.errors import BadInput, Interrupted, listing
from erasediff.families.base import Model, encoded_shape
from erasediff.families.sampling import sample
from erasediff.files import writable
from erasediff.training.processes import Processes


def painter(model: Model, generation: Generation, device: torch.device | str) -> Draw:
    """A callable that draws the prompts of ``model``, whose classes they are. The null prompt is its null condition."""
    labels = {prompt: label for label, prompt in enumerate(model.class_names)}
    conditions = model.conditions
    shape = encoded_shape(model)

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        rows = torch.tensor([labels.get(p, conditions.null_label) for p in prompts], device=device)
        noise = [torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        images = sample(
            model,
            torch.stack(noise).to(device),
            conditions.own(rows),
            None if conditions.null_label is None else conditions.null(rows),
            guidance_scale=generation.guidance_scale,
            num_inference_steps=generation.num_inference_steps,
        )
        return as_bytes(images).cpu()

    return draw


def drawn(
    shown: Shown, model: Model, planned: ImageData, folder: Path | None, processes: Processes, *, quiet: bool
) -> ImageData:
    """The planned data with its images: drawn, or found in ``folder`` or where they are to be reused.

    The processes share what is to be drawn. Raises Interrupted; what is drawn by then stays in ``folder``.
    """
    with _place(folder) as place:
        if processes.is_main or folder is None:
            for recipe in shown.recipes:
                given = None if shown.reuse is None else _home(shown.reuse) / recipe.name
                generated.prepare(place / recipe.name, recipe, given)
        processes.wait()
        todo = {recipe: generated.missing(place / recipe.name, recipe) for recipe in shown.recipes}
        processes.wait()  # nobody draws before everybody has looked
        share = slice(None) if folder is None else slice(processes.rank, None, processes.world)
        total = sum(len(rows[share]) for rows in todo.values())
        try:
            with tqdm(total=total, desc="draw", unit="image", disable=quiet or not total) as bar:
                _fill(shown, model, place, {r: rows[share] for r, rows in todo.items()}, processes.device, bar)
        except KeyboardInterrupt:
            kept = f"what was drawn is kept in {folder}" if folder is not None else "nothing was kept: no output_dir"
            raise Interrupted(f"interrupted while drawing images; {kept}") from None
        processes.wait()
        if processes.is_main or folder is None:
            for recipe in shown.recipes:
                generated.finish(place / recipe.name, recipe)
            shown.assembled.save(place)
        processes.wait()
        return shown.assembled.read(place).data(planned.spec)


def _fill(shown: Shown, model: Model, place: Path, todo: Any, device: torch.device, bar: Any) -> None:
    if not any(todo.values()):
        return
    model.denoiser.to(device)
    draw = painter(model, shown.generation, device)
    for recipe, rows in todo.items():
        bar.set_postfix_str(recipe.name)
        for count in generated.fill(place / recipe.name, recipe, rows, draw, batch=shown.generation.sample_batch_size):
            bar.update(count)


def planned_drawing(shown: Shown, folder: Path | None) -> dict[str, Any]:
    """What a dry run says of it: how many images, of which prompts, how many are there already."""
    found = {}
    for recipe in shown.recipes:
        todo = generated.missing(None if folder is None else folder / recipe.name, recipe)
        if shown.reuse is not None and generated.complete(_home(shown.reuse) / recipe.name, recipe):
            todo = []
        found[recipe.name] = {"images": recipe.num_images, "to_draw": len(todo), "prompts": list(recipe.prompts)}
    return found


def check_reuse(shown: Shown) -> None:
    """Raise BadInput, saying what differs, where images were to be reused and none can be."""
    if shown.reuse is None:
        return
    home = _home(shown.reuse)
    if any(generated.complete(home / recipe.name, recipe) for recipe in shown.recipes):
        return
    reasons = []
    for recipe in shown.recipes:
        if not (home / recipe.name / generated.RECORD).is_file():
            reasons.append(f"{home / recipe.name} does not exist")
            continue
        there, here = generated.recipe_in(home / recipe.name).content(), recipe.content()
        other = next((name for name in here if here[name] != there[name]), None)
        said = "it is not complete" if other is None else f"{other} was {there[other]}, now {here[other]}"
        reasons.append(f"{recipe.name}: {said}")
    raise BadInput(f"no images of {shown.reuse} can be reused: {listing(reasons) if reasons else 'none are drawn'}")


def _home(given: Path) -> Path:
    run = RunDirectory(given)
    return run.generated if run.generated.is_dir() else given


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with TemporaryDirectory() as temporary:
        yield Path(temporary)
