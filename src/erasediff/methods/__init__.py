"""Erasing methods: one paper, one file. A new one adds a row here and nothing elsewhere."""

from erasediff.registry import Registry

METHODS = Registry(
    "method",
    "erasediff.methods",
    {
        "erasediff": "erasediff.methods.erasediff:EraseDiff",
        "fine_tune": "erasediff.methods.fine_tune:FineTune",
        "grad_diff": "erasediff.methods.neg_grad:GradDiff",
        "neg_grad": "erasediff.methods.neg_grad:NegGrad",
        "salun": "erasediff.methods.salun:SalUn",
        "weighted_sum": "erasediff.methods.weighted_sum:WeightedSum",
    },
)
