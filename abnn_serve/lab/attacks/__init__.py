"""Attacks: what an adversary does to an image, each with the set that its perturbation stays in."""
