"""Who is told of each step: the progress bar, metrics.jsonl, the experiment tracker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from tqdm.auto import tqdm

from erasediff.files import writable
from erasediff.training.processes import Processes

SHOWN = ("retain_loss", "forget_loss", "slack", "residual", "multiplier")


class Callback(Protocol):
    def steps(self, records: Iterable[Mapping[str, float]]) -> None:
        """A few steps' records, oldest first; each has ``step``."""

    def end(self) -> None: ...


class Progress:
    """A bar with the losses, the slack, lambda and the time left."""

    def __init__(self, total: int, initial: int, title: str, *, disable: bool = False) -> None:
        self.bar = tqdm(total=total, initial=initial, desc=title, unit="step", disable=disable, dynamic_ncols=True)

    def steps(self, records: Iterable[Mapping[str, float]]) -> None:
        for record in records:
            shown = {k: f"{record[k]:.3g}" for k in SHOWN if k in record}
            self.bar.set_postfix(shown, refresh=False)
            self.bar.update()

    def end(self) -> None:
        self.bar.close()


class MetricsFile:
    """``metrics.jsonl``, a line a step; on resume it is cut back to the checkpoint's step."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        self.path = path
        kept = [line for line in self._lines() if line[0] <= resumed_at] if resumed_at else []
        with writable(path.parent):
            path.write_text("".join(text for _, text in kept))

    def _lines(self) -> list[tuple[int, str]]:
        if not self.path.exists():
            return []
        found = []
        for text in self.path.read_text().splitlines(keepends=True):
            try:
                found.append((int(json.loads(text)["step"]), text))
            except (json.JSONDecodeError, KeyError):  # the line that a kill cut short
                break
        return found

    def steps(self, records: Iterable[Mapping[str, float]]) -> None:
        with writable(self.path.parent), self.path.open("a") as stream:
            stream.writelines(json.dumps(dict(r)) + "\n" for r in records)

    def end(self) -> None:
        pass


class Tracker:
    """The tracker that ``report_to`` names, through accelerate."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    def steps(self, records: Iterable[Mapping[str, float]]) -> None:
        for record in records:
            self.processes.track(dict(record), int(record["step"]))

    def end(self) -> None:
        self.processes.end()
