"""Erasing methods: one paper, one file. A new one adds a row here and nothing elsewhere."""

from erasediff.registry import Registry

METHODS = Registry(
    "method",
    "erasediff.methods",
    {
        "concept_ablation": "erasediff.methods.concept_ablation:ConceptAblation",
        "erasediff": "erasediff.methods.erasediff:EraseDiff",
        "esd": "erasediff.methods.esd:ESD",
        "fine_tune": "erasediff.methods.fine_tune:FineTune",
        "grad_diff": "erasediff.methods.neg_grad:GradDiff",
        "munba": "erasediff.methods.munba:MUNBa",
        "neg_grad": "erasediff.methods.neg_grad:NegGrad",
        "retrack": "erasediff.methods.retrack:ReTrack",
        "salun": "erasediff.methods.salun:SalUn",
        "selective_amnesia": "erasediff.methods.selective_amnesia:SelectiveAmnesia",
        "siss": "erasediff.methods.siss:SISS",
        "uce": "erasediff.methods.uce:UCE",
        "weighted_sum": "erasediff.methods.weighted_sum:WeightedSum",
    },
)
