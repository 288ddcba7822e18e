"""What leaves is ours to answer for: header fields and signatures, as bytes."""
