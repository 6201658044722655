"""Tokenizers, text encoders and what else a text-to-image pipeline carries: checked, frozen, copied."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from erasediff.errors import BadInput
from erasediff.files import read_json, write_json

try:
    import transformers
except ImportError as missing:
    raise BadInput(
        'models asked in words need transformers, which is not installed; pip install "erasediff[text]"'
    ) from missing

LIBRARY: Any = transformers  # untyped: the same names have other types from version to version
UNLIMITED = 10**9  # what transformers says of a tokenizer without a limit of its own is larger by far
ROTARY = ("rope_parameters", "rope_theta")  # one of these is in the configuration of rotary positions
# The files of which each kind of tokenizer is made: all of them, each under any of several names.
CLIP_FILES = (("vocab.json", "tokenizer.json"), ("merges.txt", "tokenizer.json"))
T5_FILES = (("tokenizer.json", "spiece.model"),)
QWEN_FILES = (("tokenizer.json", "vocab.json"), ("tokenizer.json", "merges.txt"))


def frozen(module: nn.Module) -> Any:
    """``module`` in float32, without gradients and in eval mode, over the same memory; the one given stays as it is."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    return copy.deepcopy(module, memo).float().eval()


def check_length(words: Any, said: Any, prompt: str, limit: int) -> None:
    """Raise BadInput for a prompt that the tokenizer would cut: the cut might take the concept."""
    length = len(words(said, verbose=False).input_ids)
    if length > limit:
        raise BadInput(
            f"prompt {prompt!r} has {length} tokens with start and end, the model reads {limit} and would cut the "
            "rest; shorten it"
        )


def check_chat(words: Any) -> None:
    """Raise BadInput for a tokenizer without the frame of a chat, in which some models read every prompt."""
    if not words.chat_template:
        raise BadInput(
            "the tokenizer has no chat template, in which this model reads every prompt; take chat_template.jinja or "
            "tokenizer_config.json from the model's first publication"
        )


def check_pairs(pairs: Sequence[tuple[Any, Any]]) -> None:
    """Raise BadInput unless each text encoder takes every token, and as many, as its tokenizer makes."""
    for words, encoder in pairs:
        config = encoder.config.get_text_config()  # of an encoder that sees as well, the part that reads
        limits = [("vocabulary", len(words), config.vocab_size)]
        # A text encoder with relative or rotary positions takes any length (the number of a rotary one says what it was
        # trained on), and a tokenizer without a limit is given one.
        absolute = hasattr(config, "max_position_embeddings") and not any(hasattr(config, key) for key in ROTARY)
        if absolute and words.model_max_length < UNLIMITED:
            limits.insert(0, ("length", words.model_max_length, config.max_position_embeddings))
        for what, given, taken in limits:
            if given > taken:
                raise BadInput(f"the tokenizer's {what} is {given} tokens, but the text encoder takes {taken} at most")


def copy_folders(folders: dict[str, tuple[Path, Any]], target: Path) -> None:
    """Copy what was not read but belongs to the pipeline into ``target``, and enter it in the index there."""
    index = read_json(target / "model_index.json")
    for name, (source, entry) in folders.items():
        files = sorted(f for f in source.glob("*") if f.suffix in (".json", ".txt", ".safetensors"))
        if not any(f.suffix == ".safetensors" or f.name == "preprocessor_config.json" for f in files):
            warnings.warn(f"{source} holds no safetensors; {name} is left out of what is saved", stacklevel=4)
            continue
        (target / name).mkdir()
        for file in files:  # in this order whole weights replace those of variant fp16
            shutil.copyfile(file, target / name / file.name.replace(".fp16", ""))
        index[name] = entry
        if "requires_safety_checker" in index:
            index["requires_safety_checker"] |= name == "safety_checker"
    write_json(target / "model_index.json", index)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing progress bars into the output."""
    logging = LIBRARY.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
