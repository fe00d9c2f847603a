"""Image-label pairs from a trained generator: labels laid on anatomy and turned into images, each with its origin."""
