"""Presets: what to say and what to train for a common kind of erasure, from where it is reported to work.

A preset fills in what was not given; every flag and argument goes before it. ``{}`` in a prompt is the concept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from erasediff.data.targets import Concept, Target
from erasediff.errors import BadInput, check_one_of
from erasediff.families import FAMILIES

PLACE = "{}"
LORA_RATE = 1e-4  # the learning rate of adapters, ten times that of whole weights as in diffusers' own scripts
UNVERIFIED = "not yet measured on real weights"

# Large transformers do not fit with whole weights; what diffusers' LoRA scripts for them take.
SMALL_STEPS: Mapping[str, Any] = {
    "rank": 16,
    "learning_rate": LORA_RATE,
    "train_batch_size": 1,
    "gradient_accumulation_steps": 4,
    "gradient_checkpointing": True,
    "mixed_precision": "bf16",
}
BY_FAMILY: Mapping[str, Mapping[str, Any]] = {
    "stable_diffusion_xl": {
        "train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
        "mixed_precision": "bf16",
    },
    "stable_diffusion_3": SMALL_STEPS,
    "flux": SMALL_STEPS,
    "flux_2": SMALL_STEPS,
    "qwen_image": SMALL_STEPS,
    "z_image": {**SMALL_STEPS, "parameters": "attention"},  # words and image are one stream: nothing is text's alone
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One kind of erasure. ``training``: fields of the loop, of every family; ``sources``: where they come from."""

    name: str
    summary: str
    anchor: str
    prompts: tuple[str, ...]
    retain_prompts: tuple[str, ...]
    training: Mapping[str, Any]
    sources: tuple[str, ...]
    verified: str = UNVERIFIED
    families: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: BY_FAMILY)

    def fields(self, family: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The loop's fields for a model of ``family``, those that were given before all others."""
        chosen = {**self.training, **self.families.get(family, {})}
        if given.get("rank") is not None:
            chosen["learning_rate"] = LORA_RATE
        return {**chosen, **given}

    def filled(
        self,
        wanted: Sequence[Target],
        family: str,
        given: Mapping[str, Any],
        retain_prompts: Any,
        *,
        by_data: bool,
        own: bool,
    ) -> tuple[list[Target], dict[str, Any], Any]:
        """Targets, the loop's fields and retain prompts, what was given before all else.

        ``by_data``: the data shows targets and what is kept; ``own``: a folder shows what is kept.
        """
        told = self.shown(wanted, by_data=by_data)
        kept = retain_prompts or (None if by_data or own else self.retained(told))
        return told, self.fields(family, given), kept

    def shown(self, wanted: Sequence[Target], *, by_data: bool) -> list[Target]:
        """``wanted`` with the preset's anchor and prompts where a concept brings none.

        ``by_data``: the data shows the concepts, so that they need no prompts. Raises BadInput where nothing is a
        concept: a preset says how to ask for one.
        """
        if not any(isinstance(t, Concept) for t in wanted):
            raise BadInput(f"preset {self.name} says how a concept is asked for; give --target concept:TEXT")
        return [self._shown(t, by_data=by_data) if isinstance(t, Concept) else t for t in wanted]

    def _shown(self, concept: Concept, *, by_data: bool) -> Concept:
        made = concept if concept.anchor is not None else replace(concept, anchor=self.anchor)
        if by_data or concept.prompts is not None:
            return made
        return replace(made, prompts=tuple(p.replace(PLACE, concept.text) for p in self.prompts))

    def retained(self, wanted: Sequence[Target]) -> list[str]:
        """The prompts of what is to be kept, but for those that say what is to go."""
        concepts = [t for t in wanted if isinstance(t, Concept)]
        return [p for p in self.retain_prompts if not any(c.said_by(p) for c in concepts)]

    def to_dict(self) -> dict[str, Any]:
        """For ``erasediff list presets``."""
        return {
            "name": self.name,
            "summary": self.summary,
            "anchor": self.anchor,
            "prompts": list(self.prompts),
            "retain_prompts": list(self.retain_prompts),
            "training": {name: self.fields(name, {}) for name in FAMILIES if "concept" in FAMILIES[name].targets},
            "sources": list(self.sources),
            "verified": self.verified,
        }


STEPS = {"max_train_steps": 300, "learning_rate": 1e-5, "train_batch_size": 4, "lr_scheduler": "constant"}
ESD, ABLATION, ERASEDIFF = "arXiv:2303.07345", "arXiv:2303.13516", "arXiv:2401.05779"

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="style",
            summary="the style of an artist: text's way into the image only, other artists kept",
            anchor="a painting",
            prompts=(
                "a painting by {}",
                "a painting in the style of {}",
                "{}",
                "a landscape by {}",
                "a portrait in the style of {}",
            ),
            retain_prompts=(
                "a painting by Claude Monet",
                "a painting by Rembrandt",
                "a painting by Pablo Picasso",
                "a watercolor painting",
                "a pencil drawing",
                "a photo of a landscape",
                "a portrait of a woman",
            ),
            training={**STEPS, "parameters": "cross_attention"},
            sources=(f"{ESD}: cross-attention for styles", f"{ABLATION}: styles led to plain paintings"),
        ),
        Preset(
            name="object",
            summary="a kind of thing, under any wording: all weights but text's way into the image",
            anchor="an object",
            prompts=("a photo of a {}", "{}", "an image of a {}", "a {} on a table", "a close-up photo of a {}"),
            retain_prompts=(
                "a photo of an object",
                "a photo of a dog",
                "a photo of a car",
                "a photo of a person",
                "a chair",
                "a house",
                "a bowl of fruit on a table",
            ),
            training={**STEPS, "parameters": "no_cross_attention"},
            sources=(f"{ESD}: weights outside cross-attention for objects",),
        ),
        Preset(
            name="person",
            summary="a named person, with people kept",
            anchor="a person",
            prompts=("a photo of {}", "{}", "a portrait of {}", "a close-up of the face of {}", "{} smiling"),
            retain_prompts=(
                "a photo of a person",
                "a portrait of a man",
                "a portrait of a woman",
                "a photo of an old man",
                "a photo of a young woman",
                "a crowd of people",
            ),
            training={**STEPS, "parameters": "cross_attention"},
            sources=(f"{ABLATION}: an instance led to its category, through cross-attention",),
        ),
        Preset(
            name="nudity",
            summary="nudity, whatever the wording: all weights but text's way into the image",
            anchor="a person wearing clothes",
            prompts=("{}", "a nude person", "a naked woman", "a naked man", "nude figure, full body"),
            retain_prompts=(
                "a photo of a person wearing clothes",
                "a woman in a dress",
                "a man in a suit",
                "a group of people at the beach, dressed",
                "a portrait of a woman",
                "a photo of a landscape",
            ),
            training={**STEPS, "max_train_steps": 500, "parameters": "no_cross_attention"},
            sources=(
                f"{ESD}: weights outside cross-attention for nudity",
                f"{ERASEDIFF}: all but cross-attention, led to people in clothes",
            ),
        ),
    )
}


def find(name: str) -> Preset:
    """The preset of that name. Raises BadInput for another."""
    check_one_of("preset", name, PRESETS)
    return PRESETS[name]
