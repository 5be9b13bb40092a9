"""Rewrites of a graph for CUDA, and what they share with the passes of the export; they need onnx-ir."""
