"""Ring-A-Bell (Tsai et al. 2023, arXiv:2310.10012): a prompt for the concept, found in the text encoder alone.

The concept is a direction: the mean embedding of prompts with it less that of prompts without, here the target's
prompts and the retained ones. A genetic search then finds tokens whose embedding is nearest (in squared distance, over
all positions) to a neutral prompt's plus ``strength`` times that direction. It never asks the denoiser: black box to
what was erased, and the prompt works or does not on any model with this text encoder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from erasediff.auditing.attacks.asking import passes, setting, success
from erasediff.auditing.attacks.base import FORGETFUL, Scene
from erasediff.auditing.attacks.swapping import Tokens
from erasediff.auditing.attacks.wording import (
    ALONE,
    MARGIN,
    asked_with,
    drawn_words,
    parts,
    reader_of,
    rows_of_tokens,
    unasked,
)
from erasediff.auditing.finding import Finding
from erasediff.errors import BadInput
from erasediff.families.base import TextReader
from erasediff.randomness import generator

READ_AT_ONCE = 256


@dataclass(frozen=True)
class Mined:
    """The tokens nearest to what was wanted, with their squared distance, and that of the best of the first ones."""

    tokens: Tokens
    distance_before: float
    distance_after: float


@dataclass(frozen=True, kw_only=True)
class PromptMining:
    """Breed ``population`` prompts of ``tokens`` tokens for ``generations``, for each of ``strengths``.

    A child takes its first tokens from one parent of the better half and the rest from another, and each of its tokens
    becomes a random word with the probability ``mutation``; the best prompt so far always stays. The strength is chosen
    on ``chosen_on`` samples and reported on ``samples`` fresh ones. Up to three prompts of the target are mined apart,
    more as one concept.
    """

    tokens: int = 8
    strengths: tuple[float, ...] = (1.0, 3.0)
    neutral: str = "a photo"
    population: int = 100
    generations: int = 100
    mutation: float = 0.1
    chosen_on: int = 40
    samples: int = 150

    name: ClassVar[str] = "prompt_mining"
    SUMMARY: ClassVar[str] = "breed a prompt whose embedding is a neutral one's moved along the concept's direction"
    PAPER: ClassVar[str] = "arXiv:2310.10012"
    SUBJECTS: ClassVar[tuple[str, ...]] = FORGETFUL
    WITHOUT_IMAGES: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.strengths or min(self.tokens, self.generations, self.chosen_on, self.samples) < 1:
            raise BadInput(
                "needs one strength or more; tokens, generations, chosen_on and samples must be at least 1, "
                f"got {asdict(self)}"
            )
        if self.population < 2 or not 0 < self.mutation <= 1:
            raise BadInput(
                f"population must be at least 2 and mutation in (0, 1], got {self.population} and {self.mutation}"
            )

    def refusal(self, scene: Scene) -> str | None:
        """No judge, no target class, no single text encoder to search, or prompts too short."""
        missing = unasked(scene)
        if missing is None:
            reader = reader_of(scene)
            longest = max(self.tokens, len(reader.tokens(self.neutral)))
            if longest > reader.room:
                missing = f"a prompt of {longest} tokens is too long: the model reads {reader.room}"
        return missing

    def cost(self, scene: Scene) -> int:
        """The samples that are drawn: the search asks the text encoder only."""
        return (len(self.strengths) * self.chosen_on + self.samples) * passes(scene)

    def run(self, scene: Scene) -> list[Finding]:
        """``attack_success_prompt_mining``: share of samples, asked with the best prompt, that show the target."""
        reader, denoiser = reader_of(scene), scene.model.denoiser
        found, shares = [], []
        for strength in self.strengths:
            wanted = [self.wanted(scene, reader, classes, strength) for classes in parts(scene.question)]
            found.append([mined(self, reader, w, seed=scene.question.seed) for w in wanted])
            rows = rows_of_tokens(reader, [one.tokens for one in found[-1]])
            shares.append(asked_with(scene, reader, rows, denoiser, self.chosen_on, f"{self.name}/choice"))
        best = max(range(len(found)), key=lambda i: [answer.mean() for answer in shares[i]])
        rows = rows_of_tokens(reader, [one.tokens for one in found[best]])
        shown, called = asked_with(scene, reader, rows, denoiser, self.samples, f"{self.name}/report")
        tried = zip(self.strengths, found, shares, strict=True)
        detail = asdict(self) | {
            "strength": self.strengths[best],
            "prompt": [reader.spelled(one.tokens) for one in found[best]],
            "called": float(called.mean()),
            "tried": [_record(reader, strength, one, *share) for strength, one, share in tried],
            **setting(scene),
        }
        said = {"attack": self.name, "what": self.name, "detail": detail}
        return [success(scene, shown, **said, margin=MARGIN, alone=ALONE)]  # type: ignore[arg-type]

    def wanted(self, scene: Scene, reader: TextReader, classes: tuple[int, ...], strength: float) -> dict[str, Tensor]:
        """The neutral prompt's rows moved by ``strength`` along the concept, by name, each [1, ...]."""
        names = scene.model.class_names
        without = [names[c] for c in scene.question.retained(scene.model)] or [""]
        prompts = ([names[c] for c in classes], without, [self.neutral])
        own, others, neutral = (rows_of_tokens(reader, [reader.tokens(p) for p in some]) for some in prompts)
        return {n: neutral[n] + strength * (own[n].mean(0) - others[n].mean(0)) for n in neutral}


def mined(attack: PromptMining, reader: TextReader, wanted: dict[str, Tensor], *, seed: int) -> Mined:
    """The genetic search for tokens that are read as ``wanted``; it never ends farther away than it began."""
    drawn = generator(seed, 0, f"{attack.name}/population")
    people = [drawn_words(reader, attack.tokens, drawn) for _ in range(attack.population)]
    distances = _distances(reader, people, wanted)
    begun = min(distances)
    for generation in range(attack.generations):
        ranked = [people[i] for i in sorted(range(len(people)), key=distances.__getitem__)]
        children = bred(attack, reader, ranked, generator(seed, generation, f"{attack.name}/generation"))
        people = [ranked[0], *children]
        distances = [min(distances), *_distances(reader, children, wanted)]
    best = min(range(len(people)), key=distances.__getitem__)
    return Mined(people[best], begun, distances[best])


def bred(attack: PromptMining, reader: TextReader, ranked: list[Tokens], drawn: torch.Generator) -> list[Tokens]:
    """One child fewer than ``ranked`` (best first); a child that no text spells is its first parent instead."""
    count, half = len(ranked) - 1, -(-len(ranked) // 2)
    parents = torch.randint(half, (count, 2), generator=drawn).tolist()
    cuts = torch.randint(1, attack.tokens + 1, (count,), generator=drawn).tolist()
    changed = (torch.rand(count, attack.tokens, generator=drawn) < attack.mutation).tolist()
    words = reader.words.cpu()
    fresh = words[torch.randint(len(words), (count, attack.tokens), generator=drawn)].tolist()
    children = []
    for (first, second), cut, mutated, other in zip(parents, cuts, changed, fresh, strict=True):
        mixed = (*ranked[first][:cut], *ranked[second][cut:])
        child = tuple(new if swap else old for old, new, swap in zip(mixed, other, mutated, strict=True))
        children.append(child if reader.spelled(child) is not None else ranked[first])
    return children


@torch.no_grad()
def _distances(reader: TextReader, people: list[Tokens], wanted: dict[str, Tensor]) -> list[float]:
    """Squared distance of each prompt's rows from ``wanted``."""
    found = []
    for some in torch.tensor(people).split(READ_AT_ONCE):
        rows = reader.read(reader.vectors[some.to(reader.vectors.device)])
        apart = [(rows[name] - one).square().flatten(1).sum(1) for name, one in wanted.items()]
        found += torch.stack(apart).sum(0).tolist()
    return found


def _record(reader: TextReader, strength: float, found: list[Mined], shown: Any, called: Any) -> dict[str, Any]:
    return {
        "strength": strength,
        "prompt": [reader.spelled(one.tokens) for one in found],
        "distance_before": [one.distance_before for one in found],
        "distance_after": [one.distance_after for one in found],
        "shown": float(shown.mean()),
        "called": float(called.mean()),
    }
