"""CLIP (Radford et al. 2021, arXiv:2103.00020), the user's own copy of it: embeddings of images and of texts.

The one door of the audit to transformers. Nothing is downloaded unless a Hub id is given; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from erasediff.errors import BadInput, listing
from erasediff.families.clip_images import FILES as PREPARED
from erasediff.families.clip_images import Preprocessing
from erasediff.families.hub import is_id
from erasediff.families.muted import muted
from erasediff.families.reading import first_line
from erasediff.files import read_json, sha256

BATCH = 64  # images at once
MODEL_TYPE = "clip"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
WORDS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Either all of one or all of the other: without its files transformers makes an empty tokenizer."""
READ = ("config.json", *PREPARED, "*token*.json", "vocab.json", "merges.txt", "model*.safetensors", WEIGHTS[1])
PICKLES = ("bin", "pt", "ckpt")


@dataclass(frozen=True, eq=False, kw_only=True)
class Clip:
    """A CLIP model with how it reads words and images. ``fingerprint``: SHA-256 of all files that it was read from."""

    name: str
    module: Any
    tokenizer: Any
    preprocessing: Preprocessing
    fingerprint: str
    _said: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def title(self) -> str:
        """The name with the beginning of the fingerprint, as it stands beside numbers."""
        return f"{self.name} (sha256 {self.fingerprint[:12]})"

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Embeddings float32 [N, D] on the CPU, not normalised, of images [N, C, H, W] in [-1, 1]."""
        device = next(self.module.parameters()).device
        found = [torch.empty(0, self.module.visual_projection.out_features)]
        for batch in images.split(BATCH) if len(images) else ():
            pooled = self.module.vision_model(pixel_values=self.preprocessing(batch.to(device))).pooler_output
            found.append(self.module.visual_projection(pooled).float().cpu())
        return torch.cat(found)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings float32 [P, D] on the CPU, of length 1. Raises BadInput for a text that would be cut."""
        for text in texts:
            if text not in self._said:  # one by one: what is said of a text does not depend on the others
                self._said[text] = self._text(text)
        return torch.cat([self._said[text] for text in texts])

    @torch.no_grad()
    def _text(self, text: str) -> Tensor:
        limit = min(self.tokenizer.model_max_length, self.module.config.text_config.max_position_embeddings)
        ids = self.tokenizer(text, return_tensors="pt", verbose=False).input_ids
        if ids.shape[1] > limit:
            raise BadInput(
                f"{text!r} has {ids.shape[1]} tokens with start and end, and CLIP {self.name} reads {limit}: it would "
                "be cut; shorten it"
            )
        pooled = self.module.text_model(input_ids=ids.to(next(self.module.parameters()).device)).pooler_output
        return F.normalize(self.module.text_projection(pooled).float()).cpu()

    @classmethod
    def load(cls, source: str | Path) -> Clip:
        """Read a directory, or a Hub id ``owner/name`` or ``owner/name@revision``.

        Raises BadInput where it does not exist, is no CLIP model, is incomplete, has no safetensors, or transformers is
        not installed.
        """
        folder = Path(source)
        if is_id(source):
            folder = _snapshot(str(source))
            name = str(source)
        else:
            name = folder.resolve().name
        _check_complete(folder)
        preprocessing = Preprocessing.read(folder)
        module, tokenizer = _read(folder)
        fits = module.config.text_config.vocab_size
        if len(tokenizer) > fits:
            raise BadInput(f"the tokenizer of {folder} knows {len(tokenizer)} tokens, its text model {fits}")
        _check_size(folder, module, preprocessing)
        module.to("cuda" if torch.cuda.is_available() else "cpu")
        return cls(
            name=name,
            module=module,
            tokenizer=tokenizer,
            preprocessing=preprocessing,
            fingerprint=_fingerprint(folder),
        )


def _snapshot(hub_id: str) -> Path:
    """Fetch what is read of a Hub id into the Hub's own cache; never code, never pickles."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    name, _, revision = hub_id.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(READ)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise BadInput(
            f"CLIP {hub_id!r} is no path here, and cannot be had from the Hub: {first_line(error)}"
        ) from error


def _check_complete(folder: Path) -> None:
    """Raise BadInput unless ``folder`` holds a CLIP model in safetensors, with its words."""
    if not folder.is_dir():
        raise BadInput(f"CLIP {str(folder)!r} does not exist; give a directory with a CLIP model, or a Hub id")
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder} is no CLIP model: config.json is missing")
    config = read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != MODEL_TYPE:
        raise BadInput(f"{folder} holds a model of type {kind}; read is {MODEL_TYPE} (transformers' CLIPModel)")
    if not any((folder / name).is_file() for name in WEIGHTS):
        pickled = sorted(f.name for f in folder.iterdir() if f.suffix[1:] in PICKLES)
        hint = (
            f"; {listing(pickled)} is never unpickled here: if you trust it, convert it once with python -c "
            f"\"from transformers import CLIPModel as C; C.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )
        raise BadInput(f"{folder} has no {WEIGHTS[0]}{hint if pickled else ''}")
    if not any(all((folder / name).is_file() for name in names) for names in WORDS):
        raise BadInput(f"{folder} has no tokenizer: needed is {' or '.join(' with '.join(names) for names in WORDS)}")


def _read(folder: Path) -> tuple[Any, Any]:
    """The model in float32 without gradients, and its tokenizer."""
    try:
        from transformers import CLIPModel, CLIPTokenizer
    except ImportError as missing:
        raise BadInput('CLIP needs transformers, which is not installed; pip install "erasediff[text]"') from missing
    from safetensors import SafetensorError

    kind: Any = CLIPModel  # whose annotations know only the answer without loading information
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    try:
        with muted("transformers"):
            module, info = kind.from_pretrained(folder, **options)
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        raise BadInput(f"{folder} cannot be read as a CLIP model: {first_line(error)}") from error
    # transformers draws at random what a file lacks, and only logs it.
    absent = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if absent:
        raise BadInput(f"{folder} lacks {len(absent)} weights of a CLIP model, first {absent[0]}")
    broken = [n for n, p in module.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        raise BadInput(f"{folder} holds weights that are not finite (NaN or infinity), first in {broken[0]}")
    return module.float().eval().requires_grad_(False), tokenizer


def _check_size(folder: Path, module: Any, preprocessing: Preprocessing) -> None:
    side = module.config.vision_config.image_size
    given = preprocessing.crop or preprocessing.resize
    if given not in (side, (side, side)):
        raise BadInput(f"images are prepared to {given} pixels in {folder}, but its model looks at {side} x {side}")


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in READ for path in folder.glob(pattern)}):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()
