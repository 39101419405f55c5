"""What every script shares: key=value options, help texts, one-line errors."""
