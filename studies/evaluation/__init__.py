"""What the metrics of jaxdiff.evaluation say of real images: damage, sample size, conversions."""
