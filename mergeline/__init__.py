"""mergeline: merge neural networks that were trained apart, without training."""
