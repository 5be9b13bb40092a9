"""Decoding of images and videos under limits, shared by training, scoring and serving."""
