"""Tables of patents, claims and CPC symbols, joined by patent id: hash partition, then one bucket at a time."""
