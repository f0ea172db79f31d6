"""Parts of the HTML reports: plots as SVG text, and the page around them."""
