"""The bundle: one directory, fixed format, where training and serving meet."""
