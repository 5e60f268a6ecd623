"""The nouns of Tidings: frozen structs, ids and errors. This package imports nothing of ours."""
