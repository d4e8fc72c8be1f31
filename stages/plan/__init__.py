"""What a benchmark is: its parameters, its cells, where their files lie, and the pipeline files made of them."""
