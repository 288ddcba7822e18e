"""Towards the next hop: routes, open connections, transactions, outcomes."""
