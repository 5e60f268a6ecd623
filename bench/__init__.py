"""Every figure that the README claims, measured again by `python -m bench`. The method is in bench/README.md."""
