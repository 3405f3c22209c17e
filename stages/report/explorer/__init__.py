"""The explorer: the tables as one page with which a person can play, offline."""
