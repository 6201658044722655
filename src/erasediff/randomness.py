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
