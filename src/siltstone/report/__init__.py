"""What reports are made of: plots as SVG text, and the page around them."""
