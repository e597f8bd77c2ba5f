"""Samples a run: python sample.py --model runs/digits --num_samples 100 --out samples/digits."""

from jaxdiff.sampling.command import main

if __name__ == "__main__":
    main()
