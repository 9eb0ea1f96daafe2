"""What is fetched: pins, homes, transfers and the store on this machine."""
