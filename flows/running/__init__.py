"""One run: what runs when, in which process, and what is told of it."""
