"""What a report owes to others: the works whose measures it shows."""

from __future__ import annotations

from dataclasses import dataclass

from erasediff.auditing.result import AuditResult
from erasediff.report.vocabulary import AGAINST

AGAINST_RETRAINED = (AGAINST,)  # cited where there is any difference from a retrained model


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
        "J. Hessel, A. Holtzman, M. Forbes, R. Le Bras, Y. Choi",
        "CLIPScore: A Reference-free Evaluation Metric for Image Captioning",
        "EMNLP 2021, arXiv:2104.08718",
        _arxiv("2104.08718"),
        ("clip_score",),
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
    Citation(
        "D. J. Schuirmann",
        "A Comparison of the Two One-Sided Tests Procedure and the Power Approach for Assessing the Equivalence of "
        "Average Bioavailability",
        "Journal of Pharmacokinetics and Biopharmaceutics 15, 1987 (equality within a margin)",
        "https://doi.org/10.1007/BF01068419",
        AGAINST_RETRAINED,
    ),
    Citation(
        "S. Holm",
        "A Simple Sequentially Rejective Multiple Test Procedure",
        "Scandinavian Journal of Statistics 6, 1979 (many comparisons)",
        "https://www.jstor.org/stable/4615733",
        AGAINST_RETRAINED,
    ),
    Citation(
        "E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson",
        "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves",
        "Biometrics 44, 1988 (differences of AUCs)",
        "https://doi.org/10.2307/2531595",
        ("mia_auc_",),
    ),
    Citation(
        "D. Friedman, A. B. Dieng",
        "The Vendi Score: A Diversity Evaluation Metric for Machine Learning",
        "TMLR 2023, arXiv:2210.02410",
        _arxiv("2210.02410"),
        ("vendi_score",),
    ),
    Citation(
        "N. Carlini, J. Hayes, M. Nasr, M. Jagielski, V. Sehwag, F. Tramèr, B. Balle, D. Ippolito, E. Wallace",
        "Extracting Training Data from Diffusion Models",
        "USENIX Security 2023, arXiv:2301.13188 (copies)",
        _arxiv("2301.13188"),
        ("regenerat",),
    ),
    Citation(
        "N. Carlini, S. Chien, M. Nasr, S. Song, A. Terzis, F. Tramèr",
        "Membership Inference Attacks From First Principles",
        "IEEE S&P 2022, arXiv:2112.03570 (true positives at few false ones)",
        _arxiv("2112.03570"),
        ("mia_tpr",),
    ),
    Citation(
        "F. Kong, J. Duan, R. Ma, H. Shen, X. Shi, X. Zhu, K. Xu",
        "An Efficient Membership Inference Attack for the Diffusion Model by Proximal Initialization",
        "ICLR 2024, arXiv:2305.18355 (PIA)",
        _arxiv("2305.18355"),
        ("mia_auc_pia",),
    ),
    Citation(
        "J. Duan, F. Kong, S. Wang, X. Shi, K. Xu",
        "Are Diffusion Models Vulnerable to Membership Inference Attacks?",
        "ICML 2023, arXiv:2302.01316 (SecMI)",
        _arxiv("2302.01316"),
        ("mia_auc_secmi",),
    ),
    Citation(
        "M. Rao, B. Qu, D. Moyer",
        "Score-based Membership Inference on Diffusion Models",
        "2025, arXiv:2509.25003 (SimA)",
        _arxiv("2509.25003"),
        ("mia_auc_sima",),
    ),
    Citation(
        "Y. Pang, T. Wang, X. Kang, M. Huai, Y. Zhang",
        "White-box Membership Inference Attacks against Diffusion Models",
        "2023, arXiv:2308.06405 (gradient norms)",
        _arxiv("2308.06405"),
        ("mia_auc_gradient_norm",),
    ),
    Citation(
        "H. Hu, S. Wang, T. Dong, M. Xue",
        "Learn What You Want to Unlearn: Unlearning Inversion Attacks against Machine Unlearning",
        "IEEE S&P 2024, arXiv:2404.03233 (what an update gives away)",
        _arxiv("2404.03233"),
        ("mia_auc_weight_difference",),
    ),
    Citation(
        "M. Pham, K. O. Marshall, N. Cohen, G. Mittal, C. Hegde",
        "Circumventing Concept Erasure Methods For Text-to-Image Generative Models",
        "ICLR 2024, arXiv:2308.01508 (fitted embeddings)",
        _arxiv("2308.01508"),
        ("attack_success_class_embedding", "attack_success_text_embedding"),
    ),
    Citation(
        "R. Gal, Y. Alaluf, Y. Atzmon, O. Patashnik, A. H. Bermano, G. Chechik, D. Cohen-Or",
        "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion",
        "ICLR 2023, arXiv:2208.01618 (pseudo-words)",
        _arxiv("2208.01618"),
        ("attack_success_text_embedding",),
    ),
    Citation(
        "Y. Zhang, J. Jia, X. Chen, A. Chen, Y. Zhang, J. Liu, K. Ding, S. Liu",
        "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy to Generate Unsafe Images ... "
        "For Now",
        "ECCV 2024, arXiv:2310.11868 (UnlearnDiffAtk)",
        _arxiv("2310.11868"),
        ("attack_success_token_search",),
    ),
    Citation(
        "Z.-Y. Chin, C.-M. Jiang, C.-C. Huang, P.-Y. Chen, W.-C. Chiu",
        "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic Prompts",
        "ICML 2024, arXiv:2309.06135",
        _arxiv("2309.06135"),
        ("attack_success_prompt_debugging",),
    ),
    Citation(
        "Y.-L. Tsai, C.-Y. Hsu, C. Xie, C.-H. Lin, J.-Y. Chen, B. Li, P.-Y. Chen, C.-M. Yu, C.-Y. Huang",
        "Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models?",
        "ICLR 2024, arXiv:2310.10012",
        _arxiv("2310.10012"),
        ("attack_success_prompt_mining",),
    ),
    Citation(
        "J. Ho, T. Salimans",
        "Classifier-Free Diffusion Guidance",
        "2022, arXiv:2207.12598",
        _arxiv("2207.12598"),
        ("attack_success_guidance",),
    ),
    Citation(
        "C. Meng, Y. He, Y. Song, J. Song, J. Wu, J.-Y. Zhu, S. Ermon",
        "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations",
        "ICLR 2022, arXiv:2108.01073 (starting from an image)",
        _arxiv("2108.01073"),
        ("attack_success_image_to_image",),
    ),
    Citation(
        "R. Mokady, A. Hertz, K. Aberman, Y. Pritch, D. Cohen-Or",
        "Null-text Inversion for Editing Real Images using Guided Diffusion Models",
        "CVPR 2023, arXiv:2211.09794 (rebuilding images)",
        _arxiv("2211.09794"),
        ("inversion_",),
    ),
    Citation(
        "V. M. Suriyakumar, R. Alur, A. Sekhari, M. Raghavan, A. C. Wilson",
        "Unstable Unlearning: The Hidden Risk of Concept Resurgence in Diffusion Models",
        "2024, arXiv:2410.08074 (training on what stays)",
        _arxiv("2410.08074"),
        ("attack_success_retain_training",),
    ),
    Citation(
        "Z. Zhang, F. Wang, X. Li, Z. Wu, X. Tang, H. Liu, Q. He, W. Yin, S. Wang",
        "Catastrophic Failure of LLM Unlearning via Quantization",
        "ICLR 2025, arXiv:2410.16454 (rounding)",
        _arxiv("2410.16454"),
        ("attack_success_quantised",),
    ),
    Citation(
        "S. Han, J. Pool, J. Tran, W. J. Dally",
        "Learning both Weights and Connections for Efficient Neural Networks",
        "NeurIPS 2015, arXiv:1506.02626 (pruning)",
        _arxiv("1506.02626"),
        ("attack_success_pruned",),
    ),
)


METHOD_WORKS = {
    "arXiv:2303.07345": Citation(
        "R. Gandikota, J. Materzynska, J. Fiotto-Kaufman, D. Bau",
        "Erasing Concepts from Diffusion Models",
        "ICCV 2023, arXiv:2303.07345",
        _arxiv("2303.07345"),
    ),
    "arXiv:2303.13516": Citation(
        "N. Kumari, B. Zhang, S.-Y. Wang, E. Shechtman, R. Zhang, J.-Y. Zhu",
        "Ablating Concepts in Text-to-Image Diffusion Models",
        "ICCV 2023, arXiv:2303.13516",
        _arxiv("2303.13516"),
    ),
    "arXiv:2308.14761": Citation(
        "R. Gandikota, H. Orgad, Y. Belinkov, J. Materzynska, D. Bau",
        "Unified Concept Editing in Diffusion Models",
        "WACV 2024, arXiv:2308.14761",
        _arxiv("2308.14761"),
    ),
}
"""By paper, as a method names it: what a model card cites in full."""


def cited(result: AuditResult) -> list[Citation]:
    """The works behind what ``result`` holds."""
    measured = {m.name if m.group != AGAINST else f"{AGAINST}: {m.name}" for m in result.measurements}
    return [w for w in WORKS if not w.measures or any(name.startswith(w.measures) for name in measured)]
