"""Offline scoring: any number of samples to Parquet, each exactly once; never imports torch."""
