"""Erasing methods: one paper, one file. A new one adds a row here and nothing elsewhere."""

from erasediff.registry import Registry

METHODS = Registry(
    "method",
    "erasediff.methods",
    {
        "erasediff": "erasediff.methods.erasediff:EraseDiff",
        "fine_tune": "erasediff.methods.fine_tune:FineTune",
        "grad_diff": "erasediff.methods.neg_grad:GradDiff",
        "munba": "erasediff.methods.munba:MUNBa",
        "neg_grad": "erasediff.methods.neg_grad:NegGrad",
        "retrack": "erasediff.methods.retrack:ReTrack",
        "salun": "erasediff.methods.salun:SalUn",
        "selective_amnesia": "erasediff.methods.selective_amnesia:SelectiveAmnesia",
        "siss": "erasediff.methods.siss:SISS",
        "weighted_sum": "erasediff.methods.weighted_sum:WeightedSum",
    },
)
