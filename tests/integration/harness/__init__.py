"""What the integration tests are made of: monitors, their clients, guests, kernels and images."""
