"""Private training on shares: the users' side."""
