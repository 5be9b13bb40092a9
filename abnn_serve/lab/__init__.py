"""Training and export: the half of abnn_serve that needs torch (extra `lab`)."""
