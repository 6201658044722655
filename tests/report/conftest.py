"""Fixtures over the made-up audit of report_samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from report_samples import SUBJECTS, audited, full_measurements

from erasediff.auditing.result import AuditResult


@pytest.fixture
def result() -> AuditResult:
    return audited(*full_measurements())


@pytest.fixture
def pictures() -> dict[str, dict[str, Any]]:
    draw = np.random.default_rng(0).integers
    kinds = ("forget", "retain", "unconditional")
    return {s: {k: draw(0, 256, (10, 8, 8, 1), dtype=np.uint8) for k in kinds} for s in SUBJECTS}
