"""Adaptive Batch Normalization Networks: the adaptive layer, plans, surgery and the joined network."""
