"""Files of the archive: Parquet, written and read with DuckDB."""
