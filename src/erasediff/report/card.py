"""The model card: Markdown with front matter, for the Hub and for whoever finds the directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from erasediff.auditing.result import AuditResult
from erasediff.report.citations import METHOD_WORKS
from erasediff.report.facts import making
from erasediff.report.markdown import code, escaped
from erasediff.report.story import answer, evidence, not_tested
from erasediff.report.tables import markdown
from erasediff.report.vocabulary import target_phrase

LOADING = """## Load it

Plain diffusers; erasediff is not needed:

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("model")
```

Where `model/` holds a `pipeline.py` of its own (a pipeline that diffusers does not ship), read that file and add
`custom_pipeline="model", trust_remote_code=True`.
"""

LORA = """## Load it

Plain diffusers; erasediff is not needed. `lora/` is a LoRA: what is to be added to the base model named above.

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("BASE")
pipe.load_lora_weights("lora", adapter_name="erased")
pipe.set_adapters("erased", 1.0)
```

A pipeline without `load_lora_weights` (DDPM, DiT) takes it through peft:
`pipe.unet = PeftModel.from_pretrained(pipe.unet, "lora").merge_and_unload()`, or `pipe.transformer` likewise.

The base model is unchanged: whoever takes the LoRA off, or its strength down, has what was erased again.
`erasediff export RUN --to full` writes weights into which it is merged.
"""

ONE_FILE = (
    "The base is a single file: its pipeline class reads it by `from_single_file` in the place of the second line.\n"
)
BESIDE = "`lora/` is the same change as a LoRA, to be added to the model that this one was made from.\n"

LIMITS = (
    "Erasing is a change of weights, not a proof. That a model no longer draws something when asked does not show that "
    "nothing of it is left: fine-tuning, optimised prompts and membership attacks may still find it.",
    "Only what the table names was measured, with the instruments it names. A classifier is wrong now and then, and "
    "so is every number that rests on it.",
    "Nothing here is certified: no differential privacy was accounted for unless the settings above say so.",
    "Who asked for the erasure may be recognised by comparing this model with the one it came from; whoever keeps the "
    "base model keeps what was erased.",
)


def model_card(run: Mapping[str, Any], result: AuditResult | None) -> str:
    """The card of a run. ``run``: content of run.json, any key may be missing; ``result``: its audit, if there is one.

    Text from users comes escaped: it can neither leave the front matter nor become HTML or Markdown.
    """
    erased = run.get("kind") != "train"
    target = _target(run, result)
    title = f"A diffusion model without {target}" if target else "A diffusion model"
    parts = [f"---\n{_front_matter(run, erased).strip()}\n---", f"# {escaped(title)}", _opening(erased, target)]
    if facts := making(run):
        parts.append("## How it was made\n\n" + "\n".join(f"- {label}: {code(text)}" for label, text in facts))
    if result is not None:
        parts.append(_findings(result))
    elif erased:
        parts.append("## What was measured\n\nNothing yet. `erasediff audit` measures what was forgotten and kept.")
    parts.append(_loading(run).strip())
    if erased:
        parts.append("## Limits\n\n" + "\n".join(f"- {limit}" for limit in LIMITS))
    if works := _works(run, erased):
        parts.append(works)
    return "\n\n".join(parts) + "\n"


def _target(run: Mapping[str, Any], result: AuditResult | None) -> str:
    target = run.get("target") or (result.target if result else "")
    text = ", ".join(map(str, target)) if isinstance(target, (list, tuple)) else str(target or "")
    return target_phrase(" ".join(text.split())) if text else ""


def _front_matter(run: Mapping[str, Any], erased: bool) -> str:
    from huggingface_hub import ModelCardData

    method = run.get("method")
    name = method.get("name") if isinstance(method, Mapping) else method
    tags = ["erasediff", "diffusion"] + (["machine-unlearning", "concept-erasure"] if erased else [])
    if erased and isinstance(name, str) and re.fullmatch(r"[\w-]+", name) and name not in tags:
        tags.append(f"method:{name}")
    data = ModelCardData(library_name="diffusers", tags=tags, base_model=_hub_id(run))
    return data.to_yaml()


def _hub_id(run: Mapping[str, Any]) -> str | None:
    base = run.get("base_model")
    found = base.get("id") if isinstance(base, Mapping) else None
    return found if isinstance(found, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", found) else None


def _opening(erased: bool, target: str) -> str:
    named = f"**{escaped(target)}**" if target else "part of its training data"
    if erased:
        return f"This model was made to forget {named} with erasediff. It loads with plain diffusers."
    if target:
        return (
            f"Trained from scratch with erasediff on data without {named}: the retrained model with which an erased "
            "one is compared."
        )
    return "Trained from scratch with erasediff."


def _loading(run: Mapping[str, Any]) -> str:
    base = run.get("base_model")
    apart = isinstance(base, Mapping) and base.get("source")
    if not run.get("lora"):
        return LOADING
    if not isinstance(base, Mapping) or not apart:
        return f"{LOADING}\n{BESIDE}"
    if hub_id := _hub_id(run):
        revision = str(base.get("revision") or "")
        pinned = f', revision="{revision}"' if re.fullmatch(r"[\w./-]+", revision) else ""
        return LORA.replace('"BASE"', f'"{hub_id}"{pinned}')
    return LORA + (f"\n{ONE_FILE}" if str(base.get("source")).endswith(".safetensors") else "")


def _findings(result: AuditResult) -> str:
    sentences = [answer(result), *evidence(result)]
    lines = ["## What was measured", "", " ".join(escaped(s) for s in sentences), ""]
    if result.verdict.because:
        lines += ["The verdict rests on this:", "", *(f"- {escaped(r)}" for r in result.verdict.because), ""]
    lines.append(markdown(result).strip())
    untested = not_tested(result)
    if untested:
        lines += ["", "Not tested:", ""]
        lines += [f"- {escaped(what)}" + (f" ({escaped(why)})" if why else "") for what, why in untested]
    return "\n".join(lines)


def _works(run: Mapping[str, Any], erased: bool) -> str:
    method = run.get("method")
    paper = str(method.get("paper") or "") if isinstance(method, Mapping) else ""
    if not erased or not re.fullmatch(r"arXiv:[\w./-]+", paper):
        return ""
    known = METHOD_WORKS.get(paper)
    said = f"{known.authors}: {known.title}. {known.where.removesuffix(paper).rstrip(', ')}, " if known else ""
    return f"## Cite\n\nThe method: {said}[{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')})"
