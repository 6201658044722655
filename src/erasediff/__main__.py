"""``python -m erasediff``, also under ``accelerate launch -m``."""

from erasediff.cli.main import run

if __name__ == "__main__":
    run()
