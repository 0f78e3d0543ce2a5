"""Raw media into frames, one file per encoder."""
