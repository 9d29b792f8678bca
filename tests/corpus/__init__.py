"""What versions of this library have stored: later ones must read it. `python -m tests.corpus.generate` writes `v1/`."""
