"""Networks by name, and this project's own."""
