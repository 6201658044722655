"""What an audit can measure and how it can attack, in a line each. `erasediff list` prints it."""

METRICS = {
    "forget_rate": "share of samples asked for the target that the judge calls the target (Wilson interval)",
    "forget_probability": "mean probability of the target on those samples (bootstrap interval)",
    "forget_entropy": "mean entropy of the judge on those samples: near its maximum they are noise",
    "forget_rate_unconditional": "share of unconditional samples that the judge calls the target",
    "class_entropy_unconditional": "entropy of the classes drawn without condition: diversity",
    "retain_accuracy": "share of samples of retained classes that the judge recognises",
    "retain_accuracy_worst": "the same for the worst retained class",
    "frechet_distance": "Frechet distance to real retained images in named features (arXiv:1706.08500)",
    "kernel_distance": "kernel distance to real retained images in named features (arXiv:1801.01401)",
    "precision": "share of samples near a real image (arXiv:1904.06991)",
    "recall": "share of real images near a sample (arXiv:1904.06991)",
    "density": "how densely samples sit among real images (arXiv:2002.09797)",
    "coverage": "share of real images with a sample in their neighbourhood (arXiv:2002.09797)",
    "parameter_change": "relative change of the weights against the base model, by layer",
    "image_change_retain": "mean change of retained images drawn from the same seeds",
    "image_change_forget": "mean change of the target's images drawn from the same seeds",
}
ATTACKS = {
    "extraction": "of a target of samples: copies of them among what is drawn (regeneration_rate, regenerated_samples)",
    "membership": "of a target of samples: tell them from held-out data by their loss (mia_auc_loss)",
    "relearning": "fine-tune on k forgotten images and watch the target return (relearn_k*)",
}
