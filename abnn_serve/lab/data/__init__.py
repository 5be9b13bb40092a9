"""Data sources to labelled samples in memory."""
