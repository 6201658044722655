"""What shows a model its targets and what it is to keep: DATA, own folders, prompts that it draws of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from erasediff.api.directory import read_run
from erasediff.api.inputs import PLAIN, asked_in_words, check_template, load_data
from erasediff.api.pairing import anchors_of
from erasediff.api.retaining import Retained, readable
from erasediff.data import wording
from erasediff.data.assembled import SCHEME, Assembled, Part, data_part, drawn_part, folder_part
from erasediff.data.folders import Folder, captioned, read_folder, share
from erasediff.data.generated import Generation, Recipe
from erasediff.data.images import ImageData
from erasediff.data.targets import Class, Concept, Target
from erasediff.errors import BadInput, listing
from erasediff.families.base import AskedInWords, Model


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """How targets are to be shown, besides what the targets say themselves.

    ``drawing``: fields of Generation; ``folder``: where drawn images are going to be kept.
    """

    anchor: Any = None
    retain_images: str | Path | None = None
    retain_prompts: Any = None
    generated: str | Path | None = None
    skip_unreadable: bool = False
    prompt_template: str | None = None
    drawing: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    folder: Path | None = None

    @property
    def generation(self) -> Generation:
        """Raises BadInput for values that cannot be."""
        return Generation(**self.drawing)

    @property
    def given(self) -> list[str]:
        """Names of what was set and would change nothing where nothing is drawn or read."""
        own = {"generated": self.generated, "skip_unreadable": self.skip_unreadable, **self.drawing}
        return [name for name, value in own.items() if value]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The outcome: what the data is put together of, where each target's anchor leads, what was noticed on the way.

    ``warnings`` are said aloud, ``notes`` stand in the plan only.
    """

    assembled: Assembled
    anchors: Mapping[str, str]
    generation: Generation
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    reuse: Path | None = None

    def planned(self, folder: Path | None) -> ImageData:
        """The data as far as it is known before anything is drawn; all but the images."""
        return self.assembled.data(f"{SCHEME}{folder}" if folder is not None else f"{SCHEME}in memory")

    def asked(self, model: Model, planned: ImageData) -> Model:
        """``model``, its classes being the prompts, each target with its own anchor."""
        different = list(dict.fromkeys(self.anchors.values()))
        made = asked_in_words(model, planned, None, different[0] if different else None)
        if len(different) > 1:
            place = {prompt: label for label, prompt in enumerate(planned.class_names)}
            own = [(c, place[a]) for text, a in self.anchors.items() for c in planned.meant.get(text, ())]
            made.conditions = replace(made.conditions, anchors=tuple(own))
        return made

    def record(self) -> dict[str, Any]:
        """What run.json keeps of it: where everything came from, and what was drawn of what."""
        entries = [part.entry for part in self.assembled.parts]
        return {
            "sources": [str(e["source"]) for e in entries if e["kind"] != "drawn"],
            "meaning": {text: list(said) for text, said in self.assembled.meaning.items()},
            "anchors": dict(self.anchors),
            "drawn": {r.name: {"key": r.key, **r.content()} for r in self.recipes},
        }

    @property
    def recipes(self) -> list[Recipe]:
        """The sets that the model draws."""
        return [p.recipe for p in self.assembled.parts if p.recipe is not None]


def wants_showing(model: Model, wanted: Sequence[Target], data: Any, source: Path | None, wishes: Wishes) -> bool:
    """Whether the targets are shown by more than data. Raises BadInput for wishes that would come to nothing."""
    concepts = [t for t in wanted if isinstance(t, Concept)]
    own = any(c.shown for c in concepts) or wishes.retain_images is not None or wishes.retain_prompts is not None
    anchors = set(anchors_of(wanted, wishes.anchor).values())
    if not isinstance(model, AskedInWords):
        if own or wishes.given:
            raise BadInput(
                f"family {model.family} is asked by class number, not in words; leave out images, prompts and "
                f"{listing(wishes.given or ['retain prompts'])}"
            )
        return False
    if own or len(anchors) > 1 or (concepts and data is None and _recorded(source) is None):
        return True
    if wishes.given:
        raise BadInput(
            f"{listing(wishes.given)} would change nothing: the data shows all targets, and no image is drawn or "
            "read; give --prompts, --images or --retain_prompts as well, or leave it out"
        )
    return False


def _recorded(source: Path | None) -> str | None:
    """The data that the model's run.json names, unless it was put together for another target."""
    try:
        spec = str(read_run(source)[1]["data"]["spec"])
    except (BadInput, KeyError):
        return None
    return None if spec.startswith(SCHEME) else spec


@dataclass
class Showing:
    """Puts together what shows ``wanted`` to ``model``; nothing is drawn yet."""

    model: Model
    wanted: Sequence[Target]
    wishes: Wishes
    identity: str
    gone: Sequence[Target] = ()
    data: ImageData | None = None
    parts: list[Part] = field(default_factory=list)
    meaning: dict[str, tuple[str, ...]] = field(default_factory=dict)
    to_draw: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def shown(self, data: ImageData | str | None, source: Path | None) -> Shown:
        """Read what is there and plan what is not. Raises BadInput for everything that cannot be done."""
        check_template(self.wishes.prompt_template)
        self._read_data(data, source)
        for target in self.wanted:
            if isinstance(target, Concept):
                self.meaning[str(target)] = self._concept(target)
        if self.to_draw:
            self.parts.append(self._draw("forget", self.to_draw, self.wishes.generation.num_forget_images))
        anchors = anchors_of(self.wanted, self.wishes.anchor)
        self._retain(tuple(dict.fromkeys(anchors.values())))
        assembled = Assembled(
            parts=tuple(self.parts),
            meaning=self.meaning,
            anchors=tuple(dict.fromkeys(anchors.values())),
            image_shape=self.model.image_shape,
        )
        reuse = None if self.wishes.generated is None else Path(self.wishes.generated)
        return Shown(
            assembled=assembled,
            anchors=anchors,
            generation=self.wishes.generation,
            notes=tuple(self.notes),
            warnings=tuple(self.warnings),
            reuse=reuse,
        )

    def _read_data(self, data: ImageData | str | None, source: Path | None) -> None:
        """DATA, where it is given or a target needs it; what its classes are called in targets stays."""
        lacking = [t for t in self.wanted if not (isinstance(t, Concept) and t.shown)]
        needed = any(not isinstance(t, Concept) or _recorded(source) is not None for t in lacking)
        if data is None and not needed:
            return
        self.data = load_data(data, source, self.model)
        part = data_part(self.data, self.wishes.prompt_template or PLAIN)
        self.parts.append(part)
        for target in [*self.wanted, *self.gone]:
            if isinstance(target, Class):
                self.meaning[str(target)] = (part.classes[target.number(self.data.class_names)],)

    def _concept(self, concept: Concept) -> tuple[str, ...]:
        """The prompts that mean ``concept``, with what they are read off or drawn for among the parts."""
        said: list[str] = []
        if self.data is not None:
            names = self.data.class_names
            told = any(concept.said_by(name) for name in names)
            said += [self.parts[0].classes[c] for c in concept.numbers(names)] if told or not concept.shown else []
        if concept.images is not None:
            folder = self._folder(concept.images)
            own = [c for c in self.wanted if isinstance(c, Concept) and c.images == concept.images]
            if len(own) > 1:
                folder = share(folder, concept.said_by, lambda text: any(c.said_by(text) for c in own), concept.text)
            captions = captioned(folder, self._prompts(concept) if None in folder.captions else ())
            self.parts.append(folder_part(folder, captions))
            said += captions
        elif concept.prompts is not None or self.data is None:
            prompts = self._prompts(concept)
            self.to_draw += prompts
            said += prompts
        return tuple(dict.fromkeys(said))

    def _prompts(self, concept: Concept) -> tuple[str, ...]:
        if concept.prompts is not None:
            return wording.read(concept.prompts, f"prompts of {concept}:")
        template = self.wishes.prompt_template
        if template is not None:
            return (template.replace(PLAIN, concept.text),)
        made = [t.replace(PLAIN, concept.text) for t in wording.TEMPLATES]
        return (made[0], *readable(self.model, made[1:]))

    def _retain(self, anchors: tuple[str, ...]) -> None:
        forgotten = list(dict.fromkeys(p for t in self.wanted for p in self.meaning.get(str(t), ())))
        retained = Retained(self.model, forgotten, self.wanted, self.gone, anchors)
        before, wishes = len(self.parts), self.wishes
        if wishes.retain_images is not None:
            folder = self._folder(wishes.retain_images)
            self.parts.append(folder_part(folder, captioned(folder, anchors[:1] or ("",))))
        prompts: tuple[str, ...] = ()
        if wishes.retain_prompts is not None:
            prompts = wording.read_several(wishes.retain_prompts, "retain_prompts")
        elif self.data is None and wishes.retain_images is None:
            prompts = retained.automatic()
            self.notes.append(f"retain prompts chosen by the model's text encoder: {listing(map(repr, prompts))}")
        if prompts:
            self.parts.append(self._draw("retain", prompts, wishes.generation.num_retain_images))
        retained.check([p for part in self.parts[before:] for p in part.prompts])

    def _folder(self, root: str | Path) -> Folder:
        folder = read_folder(root, self.model.image_shape, skip_unreadable=self.wishes.skip_unreadable)
        self.warnings += [note for note in folder.notes() if note not in self.warnings]
        return folder

    def _draw(self, name: str, prompts: Sequence[str], count: int) -> Part:
        recipe = Recipe(
            name=name,
            prompts=tuple(dict.fromkeys(prompts)),
            num_images=count,
            seed=self.wishes.seed,
            guidance_scale=self.wishes.generation.guidance_scale,
            num_inference_steps=self.wishes.generation.num_inference_steps,
            image_shape=tuple(self.model.image_shape),
            model=self.identity,
        )
        return drawn_part(recipe)
