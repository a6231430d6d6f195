"""Records in: D3's Parquet, any labelled images, the sample set, and bytes to pictures."""
