"""The door to accelerate: processes, devices and experiment trackers.

Precision is not accelerate's here: its state is a process-wide singleton, and one process of ours may run several
models under several precisions. Nor is its ``save_state``, which writes pickles.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from erasediff.errors import BadInput


@dataclass(frozen=True)
class Processes:
    """The processes that share one run; with one process every method is the identity."""

    accelerator: Accelerator

    @classmethod
    def start(cls, *, report_to: str = "none", directory: Path | None = None) -> Processes:
        """Join the processes that ``accelerate launch`` started, or be the only one."""
        try:
            tracker = None if report_to == "none" else report_to
            accelerator = Accelerator(mixed_precision="no", log_with=tracker, project_dir=directory)
            if tracker is not None:
                accelerator.init_trackers("erasediff")
        except (ValueError, ImportError) as error:
            raise BadInput(f"report_to {report_to!r}: {' '.join(str(error).split())}") from error
        if tracker is not None and not accelerator.trackers and accelerator.is_main_process:
            raise BadInput(f"report_to {report_to!r}: its package is not installed; pip install it, or leave it out")
        return cls(accelerator)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def distributed(self, module: nn.Module) -> nn.Module:
        """The module as every process calls it: wrapped in DDP when there are several."""
        return self.accelerator.prepare_model(module) if self.world > 1 else module

    def gathered(self, values: Tensor) -> Tensor:
        """Rows [b, ...] of all processes [world * b, ...]."""
        return self.accelerator.gather(values) if self.world > 1 else values

    def averaged(self, tensors: list[Tensor]) -> list[Tensor]:
        """The mean of each tensor over all processes."""
        if self.world == 1:
            return tensors
        return [self.accelerator.reduce(t, reduction="mean") for t in tensors]

    def agreed(self, value: Any) -> Any:
        """The main process's value on every process (interrupts, stops)."""
        return broadcast_object_list([value])[0] if self.world > 1 else value

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def track(self, record: dict[str, float], step: int) -> None:
        """Hand a record to the experiment tracker, if there is one."""
        if self.accelerator.trackers:
            self.accelerator.log(record, step=step)

    def end(self) -> None:
        if self.accelerator.trackers:
            self.accelerator.end_training()
