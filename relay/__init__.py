"""relay: an asyncio SMTP relay proxy. `pipeline.py` is the file to read first."""

__version__ = "0.1.0"
