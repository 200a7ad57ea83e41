"""How long the documents of a period take, from line items to the files that customers get."""
