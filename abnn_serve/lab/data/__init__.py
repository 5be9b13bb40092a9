"""Labelled data sets in memory, read from Parquet, folders, torchvision and videos."""
