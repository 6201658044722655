"""``export``: a run's model in another form."""

from __future__ import annotations

from pathlib import Path

from erasediff import families
from erasediff.errors import BadInput, check_one_of, listing

FORMS = ("full", "lora", "single_file", "comfyui")


def export(run: str | Path, to: str, output_dir: str | Path, *, overwrite: bool = False) -> Path:
    """Write the model of ``run`` to ``output_dir`` and return that. Raises BadInput for a form its family lacks."""
    check_one_of("--to", to, FORMS)
    directory = families.locate(run)
    family = families.family_of(directory)
    if to not in family.exports:
        raise BadInput(f"family {family.name} cannot be exported to {to}; it can to: {listing(family.exports)}")
    place = Path(output_dir)
    if place.exists() and not overwrite:
        raise BadInput(f"output_dir {place} exists already; give another one, or --overwrite")
    families.load(directory).save(place)
    return place
