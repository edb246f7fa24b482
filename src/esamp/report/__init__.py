"""One self-contained HTML page from run folders. Reads what evaluation wrote, and runs nothing."""
