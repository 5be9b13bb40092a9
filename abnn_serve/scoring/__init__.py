"""Offline batch scoring: classify a whole data source into Parquet files; never imports torch."""
