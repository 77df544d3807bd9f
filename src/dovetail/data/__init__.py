"""What models learn from: manifests of samples, labels, batches. No weights and no torch."""
