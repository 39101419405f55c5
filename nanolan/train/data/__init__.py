"""The training data: data sets and conversations as tokens in packed rows."""
