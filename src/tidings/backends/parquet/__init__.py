"""The archive's files as Parquet, written and read with DuckDB."""
