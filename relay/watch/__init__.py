"""Telling us: logs, metrics, health."""
