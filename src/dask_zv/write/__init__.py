"""Writing a level as one graph: inputs, scan, exchange, blocks, objects, links, commit."""
