"""What nanolan is measured with: `just bench`. Ratios against a baseline of the same run; not sent to a rented machine."""
