"""The layout ``grid``: an array's blobs are cells of one array of variable-length bytes."""
