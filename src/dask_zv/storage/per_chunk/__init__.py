"""The layout ``per_chunk``: every blob is an array of its own, or a slice of a shard."""
