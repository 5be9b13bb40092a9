"""Data sources for batch scoring: folders, lists of files, Parquet files and WebDataset tars."""
