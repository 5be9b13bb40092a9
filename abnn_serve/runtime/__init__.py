"""Pixels to predictions with ONNX Runtime; never imports torch."""
