"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747)."""
