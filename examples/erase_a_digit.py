"""Erase the 7 from a small diffusion model of handwritten digits, and look at what came of it.

    python examples/erase_a_digit.py

The same as `erasediff demo`, in a few lines of Python and with a shorter training; takes about a minute on two cores.
"""

import erasediff

base = erasediff.train("digits", max_train_steps=400, output_dir="runs/example/base", overwrite=True)

run = erasediff.erase(
    base,
    target=erasediff.Class(7),
    method=erasediff.EraseDiff(forget_target="relabel", repulsion=0.5),
    max_train_steps=80,
    output_dir="runs/example/erased",
    overwrite=True,
)

result = erasediff.audit(run, base=base, output_dir="runs/example/audit", overwrite=True)
for name in ("forget_rate", "forget_rate_unconditional", "retain_accuracy", "frechet_distance"):
    before, after = result.result.find(name, "base"), result.result.find(name)
    print(f"{name:<28} base {before.value:.3f}  erased {after.value:.3f} [{after.low:.3f}, {after.high:.3f}]")
print("report: runs/example/audit/report.html")
