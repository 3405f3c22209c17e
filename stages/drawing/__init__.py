"""What every figure shares: style, labels, the command that writes it."""
