"""Telling others, and keeping what there is to tell."""
