"""The commands, a module for each kind of work; :mod:`flows.cli` puts them together. What is slow to load is loaded late."""
