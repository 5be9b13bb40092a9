"""A trained run to a bundle: torch to ONNX, parity in the session that serves, one atomic write."""
