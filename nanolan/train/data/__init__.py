"""What the trainer trains on: data sets and conversations as tokens in packed rows."""
