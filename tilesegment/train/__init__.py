"""Training: one loop, one data path, one preprocessing shared with prediction."""
