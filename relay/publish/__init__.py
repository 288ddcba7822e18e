"""What our domains must say in DNS."""
