"""Language models: fetching, pinning and rendering chats."""
