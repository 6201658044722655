"""Before and after: contact strips, one PNG a subject and kind, whose columns are the same seed in every row."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from erasediff.errors import BadInput
from erasediff.report.vocabulary import SUBJECTS, ordered_subjects

Pictures = Mapping[str, Mapping[str, NDArray[np.uint8]]]

KINDS = {
    "forget": ("Asked for the target", "What each model draws when it is asked for what it should have forgotten."),
    "retain": ("Asked for everything else", "What must survive: the other classes."),
    "unconditional": ("Asked for nothing", "Drawn without a condition: where an erased target tends to come back."),
}
LARGEST_SIDE = 160  # pixels of one picture in the page; larger ones are scaled down, the page is to be mailed
TINY = 48  # below this side a browser shows pixels as squares and does not blur them
COLUMNS = 10


@dataclass(frozen=True)
class Sheet:
    """All subjects' strips of one kind. ``wide``: too detailed to be squeezed to the width of a telephone."""

    kind: str
    title: str
    caption: str
    strips: list[tuple[str, Markup]]
    wide: bool


def sheets(pictures: Pictures, captions: Mapping[str, str] | None = None, *, columns: int = COLUMNS) -> list[Sheet]:
    """A sheet for each kind that has pictures; ``captions`` replace the default sentence of a kind.

    Raises BadInput for pictures that are not uint8 [N, H, W, C] with 1, 3 or 4 channels.
    """
    kinds = dict.fromkeys(kind for subject in pictures.values() for kind in subject)
    order = [k for k in KINDS if k in kinds] + [k for k in kinds if k not in KINDS]
    return [made for kind in order if (made := _sheet(kind, pictures, captions or {}, columns)) is not None]


def _sheet(kind: str, pictures: Pictures, captions: Mapping[str, str], columns: int) -> Sheet | None:
    drawn = {s: pictures[s][kind] for s in ordered_subjects(pictures) if kind in pictures[s] and len(pictures[s][kind])}
    if not drawn:
        return None
    across = min(columns, max(len(images) for images in drawn.values()))
    title, caption = KINDS.get(kind, (kind.replace("_", " ").capitalize(), ""))
    strips = [(s, strip(images, alt=_alt(s, title, images, across), columns=across)) for s, images in drawn.items()]
    side = max(images.shape[2] for images in drawn.values())
    return Sheet(kind, title, captions.get(kind, caption), strips, wide=side >= TINY)


def _alt(subject: str, title: str, images: NDArray[np.uint8], across: int) -> str:
    shown = min(across, len(images))
    meaning = SUBJECTS.get(subject, (subject, subject))[1].partition(":")[0]
    return f"{shown} pictures by the {subject} model ({meaning}). {title}, same seeds as the rows beside it."


def strip(images: NDArray[np.uint8], *, alt: str, columns: int) -> Markup:
    """``<img>`` of the first ``columns`` pictures of ``images`` uint8 [N, H, W, C] side by side, as a data URI.

    Fewer pictures leave transparent room, so that strips of one sheet stay aligned. Raises BadInput for other arrays.
    """
    from PIL import Image

    rows = _checked(images)[:columns]
    height, width = _shrunk(rows.shape[1], rows.shape[2])
    gap = max(1, round(width / 16))
    sheet = Image.new("RGBA", (columns * (width + gap) - gap, height), (0, 0, 0, 0))
    for i, picture in enumerate(rows):
        made = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).convert("RGBA")
        if made.size != (width, height):
            made = made.resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(made, (i * (width + gap), 0))
    stream = io.BytesIO()
    sheet.save(stream, format="PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    style = ' class="pixelated"' if max(rows.shape[1:3]) < TINY else ""
    size = f'width="{sheet.width}" height="{sheet.height}"'
    return Markup(f'<img{style} {size} src="data:image/png;base64,{data}" alt="{escape(alt)}">')


def _checked(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    array = np.asarray(images)
    if array.ndim != 4 or array.dtype != np.uint8 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise BadInput(f"pictures must be uint8 [N, H, W, 1, 3 or 4]; got {array.dtype} {list(array.shape)}")
    return array


def _shrunk(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
