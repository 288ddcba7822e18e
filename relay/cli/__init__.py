"""One file a verb; `relay VERB` imports only its own."""
