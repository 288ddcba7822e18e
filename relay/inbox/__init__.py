"""The relay's own store of captured mail, a next hop of its own."""
