"""The processes: workers, owners, clients, and what they store and say."""
