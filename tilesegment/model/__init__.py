"""What a model is: its card, its weights, its preprocessing and the engines that run it."""
