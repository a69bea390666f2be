"""Whatever needs gradients: heads and experts."""
