"""Checks of this machine: its hardware and packages, and every bundle on every engine (`abnn doctor`)."""
