"""Trains a run: python train.py --config configs/digits.py --workdir runs/digits."""

from jaxdiff.training.command import main

if __name__ == "__main__":
    main()
