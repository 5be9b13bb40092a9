"""Bytes to pixels, under limits: the one decoder that training, scoring and serving share."""
