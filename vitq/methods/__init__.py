"""What a YAML recipe cannot say: one file for each method that brings a quantizer or a step of its own."""
