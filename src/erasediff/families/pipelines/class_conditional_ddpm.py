"""A diffusers pipeline that draws images of a class from a UNet2DModel, with classifier-free guidance.

This file stands alone: it lies as ``pipeline.py`` beside the weights it belongs to and needs diffusers only.

    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(DIR, custom_pipeline=DIR, trust_remote_code=True)
    images = pipe(class_labels=[3, 3, 5], guidance_scale=2.0).images
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler, ImagePipelineOutput


class ClassConditionalDDPMPipeline(DiffusionPipeline):
    """UNet2DModel and scheduler; ``unet.config["_null_label"]`` is the label of the null condition."""

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def labels(self, class_labels: Any, batch_size: int) -> torch.Tensor:
        """Class numbers, class names, or ``None`` for the null condition -> label tensor [B]."""
        null = self.unet.config.get("_null_label")
        names = [str(n) for n in self.unet.config.get("_class_names") or []]
        if class_labels is None:
            class_labels = [null] * batch_size
        if isinstance(class_labels, (int, str)):
            class_labels = [class_labels] * batch_size
        numbers = [names.index(c) if isinstance(c, str) and c in names else c for c in class_labels]
        if any(not isinstance(n, int) for n in numbers):
            raise ValueError(f"class_labels must be class numbers or names of {names}, got {class_labels}")
        return torch.tensor(numbers, device=self.unet.device)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Any = None,
        batch_size: int = 1,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 20,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        conditional = self.unet.config.num_class_embeds is not None
        labels = self.labels(class_labels, batch_size) if conditional else torch.zeros(batch_size)
        count = len(labels)
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (count, self.unet.config.in_channels, height, width)
        x = torch.randn(shape, generator=generator, device=self.unet.device, dtype=self.unet.dtype)
        clip = bool(self.scheduler.config.get("clip_sample"))
        scheduler = DPMSolverMultistepScheduler.from_config(
            self.scheduler.config, thresholding=clip, sample_max_value=1.0
        )
        scheduler.set_timesteps(num_inference_steps)
        null = self.unet.config.get("_null_label")
        guided = conditional and guidance_scale != 1.0 and null is not None
        for t in self.progress_bar(scheduler.timesteps):
            if guided:
                both = torch.cat([labels, torch.full_like(labels, null)])
                given, free = self.unet(torch.cat([x, x]), t, both).sample.chunk(2)
                prediction = free + guidance_scale * (given - free)
            elif conditional:
                prediction = self.unet(x, t, labels).sample
            else:
                prediction = self.unet(x, t).sample
            x = scheduler.step(prediction, t, x).prev_sample
        images = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)
