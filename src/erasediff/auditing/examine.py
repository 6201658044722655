"""One audit: every subject asked the same things from the same seeds, judged by the same instruments, and attacked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from erasediff.auditing.attacks import ATTACKS, IN_WORDS
from erasediff.auditing.attacks.base import BASE, RETRAINED, Attack, Scene, instruments
from erasediff.auditing.attacks.wording import NOT_IN_WORDS
from erasediff.auditing.cache import Cache, Pictures, key_of
from erasediff.auditing.comparison import Comparison, compared
from erasediff.auditing.drawing import Subject, judged, scored
from erasediff.auditing.finding import Finding
from erasediff.auditing.metrics.drift import image_change, parameter_change
from erasediff.auditing.question import Question
from erasediff.auditing.result import ERASED, AuditResult, Measurement
from erasediff.auditing.verdict import Case, conclude
from erasediff.errors import listing
from erasediff.families.base import AskedInWords, Model
from erasediff.provenance import versions

SAMPLES, DRIFT, WORDS = NO_ATTACKS = "samples", "drift", "clip_score"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One answer of the audit: asked once, kept under ``key``. ``cost``: images that pass through the denoiser."""

    subject: str
    name: str
    key: str
    cost: int
    ask: Callable[[], list[Finding]]


@dataclass(kw_only=True)
class Examination:
    """All that an audit is going to ask: its units, what it will not ask, and the cache that may know some answers."""

    question: Question
    subjects: dict[str, Subject]
    cache: Cache
    show_forgotten: bool = False
    untested: list[tuple[str, str]] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)

    @cached_property
    def software(self) -> list[str | None]:
        """Versions on which an answer depends; read once, because that opens the metadata of every package."""
        found = versions()
        return [found[name] for name in ("erasediff", "torch")]

    @classmethod
    def plan(
        cls, models: Mapping[str, Model], question: Question, cache: Cache, *, show_forgotten: bool = False
    ) -> Examination:
        """What will be asked of ``models`` (``erased`` first). Raises BadInput for too few images."""
        subjects = {name: Subject(name, model, question) for name, model in models.items()}
        for subject in subjects.values():
            subject.check()
        made = cls(question=question, subjects=subjects, cache=cache, show_forgotten=show_forgotten)
        for name in subjects:
            made.units.append(made._samples(name))
        made.units += [made._drift(name) for name in subjects if BASE in subjects and name not in (BASE, RETRAINED)]
        made.units += made._words()
        for attack in question.suite.attacks:
            made._plan_attack(attack)
        run = {attack.name for attack in question.suite.attacks}
        why = f"not part of the suite {question.suite.name}"
        made.untested += [(_words(name), why) for name in ATTACKS if name not in run]
        if made.asked_in == "classes":
            # What a model cannot be asked is one line, not one for each attack that it cannot be asked with.
            apart = {_words(name) for name in IN_WORDS}
            kept = [(what, reason) for what, reason in made.untested if what not in apart]
            made.untested = [*kept, (listing(_words(name) for name in IN_WORDS), NOT_IN_WORDS)]
        return made

    @property
    def asked_in(self) -> str:
        """How the models are asked: in ``words`` or by ``classes``."""
        return "words" if isinstance(self.subjects[ERASED].model, AskedInWords) else "classes"

    def cost(self) -> int:
        """Images that pass through the denoiser for all that the cache does not know."""
        return sum(u.cost for u in self.units if self.cache.find(u.key) is None)

    def seconds(self) -> float:
        """About how long that takes here: a batch through the erased model is timed, a fraction of a second."""
        cost = self.cost()
        return cost * self.subjects[ERASED].seconds_an_image() if cost else 0.0

    def announcement(self) -> str:
        """What will be asked, in a line."""
        fresh = [u for u in self.units if self.cache.find(u.key) is None]
        attacks = listing(dict.fromkeys(u.name for u in self.units if u.name not in NO_ATTACKS))
        known = len(self.units) - len(fresh)
        kept = f"; {known} of {len(self.units)} answers are known from before" if known else ""
        return (
            f"{len(self.subjects)} models ({listing(self.subjects)}), suite {self.question.suite.name}, "
            f"attacks: {attacks}; about {self.cost():,} images pass through a denoiser{kept}"
        )

    def run(self) -> tuple[AuditResult, dict[str, Pictures]]:
        """Ask everything; what is in the cache is not asked again."""
        found: dict[str, dict[str, Finding]] = {name: {} for name in self.subjects}
        for unit in self.units:
            answers = self.cache.find(unit.key)
            if answers is None:
                self.question.say(f"{unit.subject}: {unit.name.replace('_', ' ')}")
                answers = self.cache.keep(unit.key, unit.ask())
            found[unit.subject].update({f.measurement.name: f for f in answers})
        comparisons = compared(found[ERASED], found.get(RETRAINED, {}), seed=self.question.seed)
        told: dict[str, Any] = {"comparisons": comparisons, "untested": self.untested, "asked_in": self.asked_in}
        verdict = conclude(Case(question=self.question, findings=found, **told))
        measurements = [f.measurement for answers in found.values() for f in answers.values()]
        result = AuditResult(
            target=self.question.target,
            measurements=[*measurements, *_gaps(comparisons)],
            verdict=verdict,
            setting={**_setting(self.question), "comparisons": [c.to_dict() for c in comparisons]},
        )
        return result, {name: self._pictures(name) for name in self.subjects}

    def _key(self, subject: str, what: Any, *others: str) -> str:
        models = [self.subjects[s].fingerprint for s in (subject, *others) if s in self.subjects]
        return key_of(self.software, subject, what, models, self.question.fingerprint, self._sizes())

    def _sizes(self) -> dict[str, Any]:
        """The suite's numbers of samples; an attack's own budget is part of its name in the key."""
        return dict(vars(replace(self.question.suite, attacks=(), name="")))

    def _samples(self, name: str) -> Unit:
        subject = self.subjects[name]

        def ask() -> list[Finding]:
            found = judged(subject)
            self._pictures(name)  # kept now, while the samples are there: a stopped audit does not draw them again
            return found

        return Unit(subject=name, name=SAMPLES, key=self._key(name, SAMPLES), cost=subject.cost(), ask=ask)

    def _drift(self, name: str) -> Unit:
        base, subject = self.subjects[BASE], self.subjects[name]

        def ask() -> list[Finding]:
            before, after = base.model.denoiser.state_dict(), subject.model.denoiser.state_dict()
            found = parameter_change(before, after, subject=name)
            for kind in ("forget", "retain"):
                if kind in subject.samples:
                    pair = base.samples[kind], subject.samples[kind]
                    found += image_change(*pair, kind, subject=name, seed=self.question.seed)
            return [Finding(m) for m in found]

        return Unit(subject=name, name=DRIFT, key=self._key(name, DRIFT, BASE), cost=0, ask=ask)

    def _words(self) -> Iterator[Unit]:
        """CLIP scores: units of their own, so that an audit that is made again with CLIP repeats no attack."""
        clip = self.question.clip
        for name, subject in self.subjects.items():
            if clip is None or not isinstance(subject.model, AskedInWords):
                continue
            clip.texts(subject.model.class_names)  # a prompt that would be cut is refused before an hour of drawing
            known = self.cache.find(self._key(name, SAMPLES)) is not None  # then they are drawn again
            yield Unit(
                subject=name,
                name=WORDS,
                key=self._key(name, [WORDS, clip.fingerprint], BASE),
                cost=subject.cost() if known else 0,
                ask=partial(scored, subject, None if name in (BASE, RETRAINED) else self.subjects.get(BASE)),
            )

    def _plan_attack(self, attack: Attack) -> None:
        base = self.subjects.get(BASE)
        for name, subject in self.subjects.items():
            if name not in attack.SUBJECTS:
                continue
            scene = Scene(name, subject.model, self.question, None if base is None else base.model)
            if why := self._no_images(attack) or attack.refusal(scene):
                if name == ERASED:
                    self.untested.append((_words(attack.name), why))
                continue
            what = [attack.name, repr(attack), *instruments(attack, scene)]
            unit = Unit(
                subject=name,
                name=attack.name,
                key=self._key(name, what, BASE),
                cost=attack.cost(scene),
                ask=lambda scene=scene: attack.run(scene),  # type: ignore[misc]
            )
            self.units.append(unit)

    def _no_images(self, attack: Attack) -> str | None:
        """Why an attack that starts from real images cannot be made where there are none."""
        if self.question.has_images or getattr(attack, "WITHOUT_IMAGES", False):
            return None
        return "there are no real images of the target; give data"

    def _pictures(self, name: str) -> Pictures:
        key = self._key(name, ["pictures", self.show_forgotten])
        kept = self.cache.pictures(key)
        if kept is None:
            kept = self.subjects[name].pictures(show_forgotten=self.show_forgotten)
            self.cache.keep_pictures(key, kept)
        return kept


def _words(name: str) -> str:
    return name.replace("_", " ")


def _gaps(comparisons: list[Comparison]) -> Iterator[Measurement]:
    """``<measure>_gap``: erased minus retrained; ``relearn_auc_gap`` and ``mia_auc_gap``: the largest of theirs."""
    rows = [(c.name, c) for c in comparisons]
    for group, prefix in (("relearn_auc", "relearn_"), ("mia_auc", "mia_auc_")):
        if mine := [c for c in comparisons if c.name.startswith(prefix)]:
            rows.append((group, max(mine, key=lambda c: abs(c.difference))))
    for name, c in rows:
        yield Measurement(
            name=f"{name}_gap",
            group="against retrained",
            subject=ERASED,
            value=c.difference,
            low=c.low,
            high=c.high,
            n=c.n,
            higher_is_better=False,
            detail={"of": c.name, "margin": c.margin, "outcome": c.outcome, "p_beyond": c.p_beyond},
        )


def _setting(question: Question) -> dict[str, Any]:
    judge, clip = question.judge, question.clip
    seen = {} if clip is None else {"clip": {"name": clip.name, "sha256": clip.fingerprint}}
    return {
        **seen,
        "suite": question.suite.to_dict(),
        "guidance_scale": question.guidance_scale,
        "mixed_precision": question.mixed_precision,
        "seed": question.seed,
        "sampler": "DPM-Solver++ (multistep, order 2) on the model's own noise schedule",
        "features": question.features,
        "classifier": None
        if judge is None
        else {"name": judge.name, "held_out_accuracy": judge.held_out_accuracy, "held_out_n": judge.held_out_n},
        "data": {"spec": question.data.spec, "sha256": question.data.fingerprint()},
    }
