"""Attacks: one file an attack; others' packages add theirs through the entry points ``erasediff.attacks``."""

from __future__ import annotations

from erasediff.registry import Registry

_HERE = "erasediff.auditing.attacks"
ATTACKS = Registry(
    "attack",
    "erasediff.attacks",
    {
        "extraction": f"{_HERE}.extraction:Extraction",
        "membership": f"{_HERE}.membership:Membership",
        "gradient_membership": f"{_HERE}.gradient_membership:GradientMembership",
        "weight_difference": f"{_HERE}.weight_difference:WeightDifference",
        "class_embedding": f"{_HERE}.class_embedding:ClassEmbedding",
        "text_embedding": f"{_HERE}.text_embedding:TextEmbedding",
        "token_search": f"{_HERE}.token_search:TokenSearch",
        "prompt_debugging": f"{_HERE}.prompt_debugging:PromptDebugging",
        "prompt_mining": f"{_HERE}.prompt_mining:PromptMining",
        "guidance": f"{_HERE}.guidance:Guidance",
        "image_to_image": f"{_HERE}.image_to_image:ImageToImage",
        "inversion": f"{_HERE}.inversion:Inversion",
        "relearning": f"{_HERE}.relearning:Relearning",
        "retain_training": f"{_HERE}.retain_training:RetainTraining",
        "quantisation": f"{_HERE}.quantisation:Quantisation",
        "pruning": f"{_HERE}.pruning:Pruning",
        "nudity": f"{_HERE}.nudity:Nudity",
    },
)

IN_WORDS = ("text_embedding", "token_search", "prompt_debugging", "prompt_mining")
"""The attacks that search for words. A model that is not asked in words lacks none of them."""
