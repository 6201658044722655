"""What a run will train, cache and hold, said before it begins: the plan of a dry run, and of run.json."""

from __future__ import annotations

from math import prod
from typing import Any

from erasediff.api.gathering import Gathered
from erasediff.errors import BadInput
from erasediff.families.base import InLatents, ReadsText, encoded_shape
from erasediff.methods.base import GradientMethod, Method, gradient_lists, step_cost
from erasediff.training.config import TrainingConfig
from erasediff.training.lora import chosen
from erasediff.training.memory import FLOAT, batch_bytes, estimate, trained_shapes
from erasediff.training.optimizer import eight_bit


def check_optimizer(method: Method, config: TrainingConfig) -> None:
    """Raise BadInput where 8-bit Adam is asked for and is missing, or is not what ``method`` reckons with."""
    if not config.use_8bit_adam:
        return
    if method.needs.moments:
        raise BadInput(
            f"rule {getattr(method, 'rule', type(method).__name__)} reckons with Adam's own moments, and use_8bit_adam "
            "keeps rounded ones; leave it out, or use rule dynamic_barrier"
        )
    eight_bit()


def forecast(found: Gathered, method: GradientMethod, config: TrainingConfig) -> dict[str, Any]:
    """Entries of ``plan``: steps and their cost, what is trained, what is cached, memory on the accelerator."""
    model, rows = found.model, config.train_batch_size * config.gradient_accumulation_steps
    latents = encoded_shape(model) if isinstance(model, InLatents) else None
    images = len(found.split.forget) + len(found.split.retain)
    text = 0
    if isinstance(model, ReadsText):
        text = sum(rows.numel() * rows.element_size() for rows in model.table.embeddings.values())
    memory = estimate(
        model.denoiser,
        config,
        frozen=method.needs.frozen,
        gradient_lists=gradient_lists(method),
        batch=batch_bytes(model.image_shape, latents, rows, sides=2),
        text=text,
    )
    return {
        "steps": config.max_train_steps,
        "forward_equivalents": config.max_train_steps * step_cost(method, config.forget_share),
        "trained": _trained(found, config),
        "cached": {
            "images": images if latents is not None else 0,
            "latents_bytes": batch_bytes((0,), latents, images, sides=1) if latents is not None else 0,
            "text_bytes": text,
        },
        "memory": memory.record(),
    }


def _trained(found: Gathered, config: TrainingConfig) -> dict[str, Any]:
    shapes, denoiser, config = trained_shapes(found.model.denoiser, config), found.model.denoiser, config.decided()
    lora = {} if config.rank is None else {"rank": config.rank, "layers": len(chosen(denoiser, config))}
    weights = sum(map(prod, shapes))
    of = sum(p.numel() for p in denoiser.parameters())
    return {"parameters": config.parameters, "weights": weights, "of": of, "bytes": FLOAT * weights, **lora}
