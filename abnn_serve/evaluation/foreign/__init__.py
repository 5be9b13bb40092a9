"""Classifiers that abnn_serve did not train, as subjects of an evaluation."""
