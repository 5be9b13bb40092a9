"""Decoding in isolated processes: a hostile file costs its own request an error, and no other request anything."""
