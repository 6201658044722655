"""What a report owes to others: the works whose measures it shows."""

from __future__ import annotations

from dataclasses import dataclass

from erasediff.auditing.result import AuditResult


@dataclass(frozen=True)
class Citation:
    """One work. ``measures``: cited where a measure of such a name, or beginning, was taken; empty: always."""

    authors: str
    title: str
    where: str
    link: str
    measures: tuple[str, ...] = ()


def _arxiv(number: str) -> str:
    return f"https://arxiv.org/abs/{number}"


WORKS = (
    Citation(
        "J. Wu, T. Le, M. Hayat, M. Harandi",
        "Erasing Undesirable Influence in Diffusion Models",
        "CVPR 2025, arXiv:2401.05779",
        _arxiv("2401.05779"),
    ),
    Citation(
        "E. B. Wilson",
        "Probable Inference, the Law of Succession, and Statistical Inference",
        "Journal of the American Statistical Association 22, 1927 (the intervals of shares)",
        "https://doi.org/10.1080/01621459.1927.10502953",
    ),
    Citation(
        "M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter",
        "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
        "NeurIPS 2017, arXiv:1706.08500 (Fréchet distance)",
        _arxiv("1706.08500"),
        ("frechet_distance",),
    ),
    Citation(
        "M. Bińkowski, D. J. Sutherland, M. Arbel, A. Gretton",
        "Demystifying MMD GANs",
        "ICLR 2018, arXiv:1801.01401 (kernel distance)",
        _arxiv("1801.01401"),
        ("kernel_distance",),
    ),
    Citation(
        "T. Kynkäänniemi, T. Karras, S. Laine, J. Lehtinen, T. Aila",
        "Improved Precision and Recall Metric for Assessing Generative Models",
        "NeurIPS 2019, arXiv:1904.06991 (precision, recall)",
        _arxiv("1904.06991"),
        ("precision", "recall"),
    ),
    Citation(
        "M. F. Naeem, S. J. Oh, Y. Uh, Y. Choi, J. Yoo",
        "Reliable Fidelity and Diversity Metrics for Generative Models",
        "ICML 2020, arXiv:2002.09797 (density, coverage)",
        _arxiv("2002.09797"),
        ("density", "coverage"),
    ),
    Citation(
        "S. Hu, Y. Fu, Z. S. Wu, V. Smith",
        "Jogging the Memory of Unlearned LLMs via Benign Relearning",
        "2024, arXiv:2406.13356 (relearning as a test)",
        _arxiv("2406.13356"),
        ("relearn_",),
    ),
)


def cited(result: AuditResult) -> list[Citation]:
    """The works behind what ``result`` holds."""
    measured = {m.name for m in result.measurements}
    return [w for w in WORKS if not w.measures or any(name.startswith(w.measures) for name in measured)]
