"""What the benchmark says: its results in one table, and the tables, figures and page made of them."""
