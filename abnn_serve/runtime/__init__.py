"""Inference: from pixels to predictions in ONNX Runtime or OpenVINO. Never imports torch."""
