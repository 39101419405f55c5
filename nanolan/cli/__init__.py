"""What every script shares: key=value options, help texts, one-line errors; and `nanolan`, the installed command."""
