"""The networks of the papers, a file for each family; :mod:`mergeline.architectures` has them by name."""
