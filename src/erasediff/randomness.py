"""Randomness as a function of (seed, step, purpose): never a stream whose position must be saved."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed that is unrelated for any two different triples."""
    digest = hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, step: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded for this triple alone."""
    return torch.Generator(device=device).manual_seed(derived_seed(seed, step, purpose))


def place_of_step(seed: int, step: int, places: int) -> int:
    """A place in ``range(places)`` for each step; ``places`` steps from a multiple of it on take each place once."""
    epoch, position = divmod(step, places)
    return int(torch.randperm(places, generator=generator(seed, epoch, f"places/{places}"))[position])
