"""Networks by name, including this project's own."""
