"""What a step costs: counted operations and bytes, and the hardware they are laid on."""
