"""A shop to show Tidings with: its templates in seven languages, its people in 20 countries, and a day of orders."""
