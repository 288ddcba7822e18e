"""Who says so? What a message and its client claim, checked against DNS."""
