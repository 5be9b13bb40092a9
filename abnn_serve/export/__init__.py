"""Exports a trained run as a bundle: torch to ONNX, graph passes, parity checks, one atomic write."""
