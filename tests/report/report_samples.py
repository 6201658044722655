"""A made-up audit of four models on 8 x 8 pictures, and how a page is read back."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from erasediff.auditing.result import AuditResult, Measurement, Verdict

SUBJECTS = ("erased", "base", "control", "retrained")
VOID = {"meta", "img", "br", "hr", "link", "input"}


def measured(name: str, subject: str = "erased", value: float = 0.5, **fields: Any) -> Measurement:
    given = {"group": "forget", "low": value - 0.01, "high": value + 0.01, "n": 250, "higher_is_better": False}
    return Measurement(name=name, subject=subject, value=value, **{**given, **fields})


def audited(*measurements: Measurement, target: str = "class:7", **verdict: Any) -> AuditResult:
    given = {"goal": "data", "level": "no_verdict", "because": ["too little was tried"], "exposed_by": []}
    untested = [{"what": w, "why": "not yet"} for w in ("membership inference", "inversion")]
    return AuditResult(
        target=target,
        measurements=list(measurements),
        verdict=Verdict(**{**given, "not_tested": untested, **verdict}),
        setting={
            "seed": 3,
            "features": "classifier",
            "classifier": {"name": "small-cnn", "held_out_accuracy": 0.98, "held_out_n": 360},
            "models": {"erased": "runs/my erased", "base": "runs/base"},
            "data": {"spec": "digits", "sha256": "ab" * 32},
        },
    )


def compared(name: str = "mia_auc_pia", attack: str = "membership (pia)", **fields: Any) -> dict[str, Any]:
    given = {"role": "trace", "erased": 0.57, "retrained": 0.46, "difference": 0.11, "low": -0.001, "high": 0.22}
    return {"name": name, "attack": attack, **given, "margin": 0.07, "n": 144, "outcome": "unclear", **fields}


def attacked(**verdict: Any) -> AuditResult:
    """An audit with attacks of every kind of outcome, and with comparisons."""
    found = full_measurements()
    for s in ("erased", "retrained"):
        grown = {"steps": [0, 50], "forget_rate": [0.0, 0.2]}
        share = 0.63 if s == "erased" else 0.02
        found += [
            measured("forget_rate_faithful", s, 0.004),
            measured("attack_success_class_embedding", s, share, group="adversarial"),
            measured("attack_success_retain_training", s, 0.2, group="adversarial", detail=grown),
            measured("mia_auc_pia", s, 0.57, group="membership"),
        ]
    found.append(measured("mia_auc_pia_gap", value=0.11, group="against retrained"))
    beyond = {"role": "access", "difference": 0.61, "low": 0.5, "high": 0.7, "margin": 0.15, "erased": 0.63}
    comparisons = [
        compared(),
        compared("attack_success_class_embedding", "class_embedding", **beyond, outcome="beyond the margin"),
        compared("forget_rate_faithful", "asking", role="asking", difference=0.0, outcome="within the margin"),
        compared("retain_accuracy", "retained classes", role="retention", outcome="below by more than the margin"),
    ]
    suite = {"name": "quick", "attacks": [{"name": n, "samples": 9} for n in ("membership", "class_embedding")]}
    given = {"level": "superficial", "exposed_by": ["class_embedding"], "because": ["rests: on one", "rests: on two"]}
    made = audited(*found, **{**given, **verdict})
    made.setting.update(comparisons=comparisons, suite=suite, model_hashes={"erased": "e" * 64, "base": "b" * 64})
    return made


def full_measurements() -> list[Measurement]:
    found = []
    for i, s in enumerate(SUBJECTS):
        classes = {"0": 0.99 - i / 100, "9": 0.9}
        curve = {"k": 10, "steps": [0, 20, 40], "forget_rate": [0.0, 0.3, 0.6 + i / 10]}
        found += [
            measured("forget_rate", s, (0.012, 0.976, 0.884, 0.008)[i]),
            measured("forget_rate_unconditional", s, (0.02, 0.1, 0.09, 0.01)[i], n=500),
            measured("retain_accuracy", s, 0.96, group="retain", higher_is_better=True, detail={"per_class": classes}),
            measured("retain_accuracy_worst", s, 0.9, group="retain", higher_is_better=True, detail={"class": "9"}),
            measured("frechet_distance", s, 3.21 + i, group="retain"),
            measured("relearn_k10", s, 0.3, group="relearning", low=None, high=None, detail=curve),
            measured(
                "parameter_change", s, 0.04, group="drift", detail={"layers": {"mid_block": 0.1, "conv_in": 0.02}}
            ),
        ]
    return found


class Page(HTMLParser):
    """Reads a page and fails where a tag is closed that is not the one open; keeps tags, ids and the text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"attribute twice in <{tag}>"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]
