"""A message arrives: listeners, sessions, the bytes that may be called a message, limits, logins."""
