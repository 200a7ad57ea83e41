"""How long the invoices of a period take to render, from their stored documents to the files that customers get."""
