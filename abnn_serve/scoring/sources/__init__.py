"""What can be scored: folders, lists, Parquet files, WebDataset tars."""
